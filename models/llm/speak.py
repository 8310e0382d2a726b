"""Lets a checkpoint answer: a GGUF file, or a directory as Hugging Face's.

    python -m models.llm.speak --model FILE_OR_DIR --prompt "What is ...?"

Applies the chat template, completes, and says how many tokens a second that was.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.llm import checkpoint, gguf, tokenizer
from models.llm.generation import GREEDY, Sampling, generate
from models.llm.interface import LanguageModel, Params
from models.llm.settings import generation_settings
from models.llm.tokenizer import Tokenizer
from models.llm.transformer import Transformer


class Speaker(NamedTuple):
    """What it takes to speak."""

    model: LanguageModel
    params: Params
    tokenizer: Tokenizer


class Answer(NamedTuple):
    """What was said, and how long it took.

    Attributes:
        text: without special tokens.
        tokens: how many they were, the end token included.
        ended: whether it came to its end.
        seconds: of prefill and decoding, without compilation.
        compilation: in seconds.
    """

    text: str
    tokens: int
    ended: bool
    seconds: float
    compilation: float


def load(path: str | Path, dtype: str = "float32") -> Speaker:
    """Reads model and tokenizer of a checkpoint.

    Raises:
        ValueError: it is damaged or not supported, or the two do not fit together.
        OSError: a file is missing.
    """
    reader = checkpoint if Path(path).is_dir() else gguf
    config, params = reader.load(path, dtype=dtype)
    return Speaker(Transformer(config), params, tokenizer.load(path, config.vocabulary))


def complete(
    speaker: Speaker,
    prompt: Sequence[int],
    *,
    new_tokens: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
) -> Answer:
    """Completes the tokens of a prompt.

    Raises:
        ValueError: the prompt is empty, or longer than the context leaves room for.
    """
    model, params, words = speaker
    if not prompt:
        raise ValueError("the prompt has no tokens")
    run = functools.partial(
        generate,
        model,
        new_tokens=new_tokens,
        end_tokens=tuple({*words.end_tokens, *model.config.end_tokens}),
        sampling=sampling,
    )
    tokens, lengths = jnp.asarray([prompt], jnp.int32), jnp.asarray([len(prompt)])
    arguments = (params, tokens, lengths)
    begin = time.perf_counter()
    key = jax.random.key(seed)
    program = jax.jit(lambda *given, key: run(*given, key=key))
    program = program.lower(*arguments, key=key).compile()
    compiled = time.perf_counter()
    done = jax.device_get(program(*arguments, key=key))
    seconds = time.perf_counter() - compiled
    made = done.tokens[0, : done.lengths[0]]
    return Answer(
        words.decode(made), len(made), bool(done.ended[0]), seconds, compiled - begin
    )


def main(arguments: Sequence[str]) -> int:
    """Answers one prompt; returns 0, or 1 if the answer lacks what was expected."""
    given = parser().parse_args(arguments)
    try:
        speaker = load(given.model, given.dtype)
        prompt = tokens_of(given, speaker.tokenizer)
        answer = complete(
            speaker,
            prompt,
            new_tokens=given.new_tokens,
            sampling=Sampling(given.temperature, given.top_p),
            seed=given.seed,
        )
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for name, value in generation_settings(given.model).ignored.items():
        sys.stderr.write(f"generation_config.json: {name} = {value} is not applied\n")
    sys.stdout.write(
        f"{answer.text}\n\n"
        f"{len(prompt)} tokens read, {answer.tokens} written in "
        f"{answer.seconds:.1f} s: "
        f"{answer.tokens / answer.seconds:.1f} tokens/s, after "
        f"{answer.compilation:.1f} s of compilation"
        f"{'' if answer.ended else '; not at its end'}\n"
    )
    return int(given.expect not in answer.text)


def tokens_of(given: argparse.Namespace, words: Tokenizer) -> list[int]:
    """The prompt, as a conversation if the checkpoint knows any."""
    if given.plain or words.template is None:
        return words.encode(given.prompt)
    messages = [{"role": "user", "content": given.prompt}]
    if given.system is not None:
        messages = [{"role": "system", "content": given.system}, *messages]
    options = {} if given.thinking is None else {"enable_thinking": given.thinking}
    return words.chat(messages, **options)


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    made = argparse.ArgumentParser(prog="python -m models.llm.speak")
    add = made.add_argument
    add("--model", required=True, help="a GGUF file or a directory as Hugging Face's")
    add("--prompt", required=True)
    add("--system", help="a system message before it")
    add("--plain", action="store_true", help="continue the prompt: no chat template")
    add(
        "--thinking", action=argparse.BooleanOptionalAction, help="as templates take it"
    )
    add("--new-tokens", type=int, default=128, help="the most of them (128)")
    add("--temperature", type=float, default=0.0, help="0 takes the likeliest (0)")
    add("--top-p", type=float, default=1.0)
    add("--seed", type=int, default=0)
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add("--expect", default="", help="fail unless the answer contains this")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Lets a checkpoint answer: a directory as Hugging Face's, a GGUF file, or an RWKV-7.

    python -m models.llm.speak --model FILE_OR_DIR --prompt "What is ...?"

Applies the chat template (RWKV-7's is `User: ...`, `Assistant:`), completes, and says
how many tokens a second that was. What cannot be answered is said before any weight is
read.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.llm import pretrained
from models.llm.generation import GREEDY, Sampling, generate
from models.llm.interface import LanguageModel, Params
from models.llm.settings import generation_settings
from models.llm.tokenizer import Tokenizer
from models.llm.world import WorldTokenizer


Words = Tokenizer | WorldTokenizer


class Speaker(NamedTuple):
    """What it takes to speak."""

    model: LanguageModel
    params: Params
    tokenizer: Words


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


def check(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    new_tokens: int,
    sampling: Sampling = GREEDY,
) -> None:
    """Raises, without a weight, if a prompt cannot be completed.

    Raises:
        ValueError: the prompt is empty, or longer than the context leaves room for; or
            the sampling is none.
    """
    if not prompt:
        raise ValueError("the prompt has no tokens")
    key = jax.random.key(0)
    run = functools.partial(generate, model, new_tokens=new_tokens, sampling=sampling)
    row = jax.ShapeDtypeStruct((1, len(prompt)), jnp.int32)
    jax.eval_shape(
        lambda *given, key: run(*given, key=key),
        jax.eval_shape(model.init, key),
        row,
        jax.ShapeDtypeStruct((1,), jnp.int32),
        key=key,
    )


def complete(
    speaker: Speaker,
    prompt: Sequence[int],
    *,
    new_tokens: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    end_tokens: Sequence[int] = (),
) -> Answer:
    """Completes the tokens of a prompt.

    Args:
        speaker: model and tokenizer.
        prompt: its tokens.
        new_tokens: the most tokens of the answer.
        sampling: how they are chosen.
        seed: of what is drawn.
        end_tokens: each of which ends the answer, beside those that model and
            tokenizer name.
    """
    model, params, words = speaker
    run = functools.partial(
        generate,
        model,
        new_tokens=new_tokens,
        end_tokens=tuple({*words.end_tokens, *model.config.end_tokens, *end_tokens}),
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
    """Answers one prompt; returns 0, or 1 if the answer lacks what was expected.

    Mistakes that the user can mend are told in one line, with 2.
    """
    given = parser().parse_args(arguments)
    try:
        prompt, answer = answered(given)
        ignored = generation_settings(given.model).ignored
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{' '.join(str(error).splitlines())}\n")
        return 2
    for name, value in ignored.items():
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


def answered(given: argparse.Namespace) -> tuple[list[int], Answer]:
    """The prompt's tokens, and what the checkpoint makes of them.

    Raises:
        ValueError: the checkpoint is damaged or not supported, its parts do not fit
            together, or the prompt does not fit it.
        OSError: a file is missing.
        ImportError: the extra `llm` is not installed.
    """
    model = pretrained.describe(given.model)
    words = pretrained.tokenizer(given.model, model.config.vocabulary)
    prompt = tokens_of(given, words)
    sampling = Sampling(given.temperature, given.top_p)
    check(model, prompt, new_tokens=given.new_tokens, sampling=sampling)
    model, params = pretrained.load(given.model, dtype=given.dtype)
    ends: tuple[int, ...] = ()
    if isinstance(words, WorldTokenizer) and not (given.plain or given.thinking):
        ends = words.turn_ends
    return prompt, complete(
        Speaker(model, params, words),
        prompt,
        new_tokens=given.new_tokens,
        sampling=sampling,
        seed=given.seed,
        end_tokens=ends,
    )


def tokens_of(given: argparse.Namespace, words: Words) -> list[int]:
    """The prompt, as a conversation if the checkpoint knows any."""
    if given.plain or (isinstance(words, Tokenizer) and words.template is None):
        return words.encode(given.prompt)
    messages = [{"role": "user", "content": given.prompt}]
    if given.system is not None:
        messages = [{"role": "system", "content": given.system}, *messages]
    options = {} if given.thinking is None else {"enable_thinking": given.thinking}
    return words.chat(messages, **options)


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    made = argparse.ArgumentParser(
        description="Lets a checkpoint of a language model answer."
    )
    add = made.add_argument
    add(
        "--model",
        required=True,
        metavar="FILE_OR_DIR",
        help="a directory as Hugging Face's, a GGUF file, or an RWKV-7",
    )
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

"""The price of a population's completions and scores, against plain batched ones.

    python -m benchmarks.generation                          # run it alone
    python -m benchmarks.generation --only "qwen2 plain" "qwen2 population"

A Qwen2 and an RWKV-7 shape of 10 million random weights, each member with a prompt of
its own of 64 tokens and 64 greedy tokens after it. "plain" is the same rows with the
weights as they are, "population" low-rank members (rademacher, rank 1) of the matrices
that are multiplied, "every leaf" of all leaves, "full rank" fewer members whose
perturbations are written out. In "even" an eighth of the members complete eight prompts
each, half of which end at a quarter of the length; "halved" is the same, and gathers
the rows that are left; "first token" is their prompts alone. The cases take turns, and
medians are compared: of processor time, which others on the machine disturb less.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import eggroll
from eggroll import runs
from models.llm.config import TransformerConfig
from models.llm.generation import generate
from models.llm.rwkv7 import RWKV7
from models.llm.rwkv7_config import RWKV7Config
from models.llm.scoring import score
from models.llm.transformer import Transformer


RESULTS = Path(__file__).parent / "results" / "generation.json"
PROMPT, NEW, END = 64, 64, 0
CONFIG = TransformerConfig(
    width=384,
    layers=5,
    heads=6,
    kv_heads=2,
    head_dim=64,
    feedforward=1152,
    vocabulary=4096,
    tied=True,
    attention_bias=True,
)
MODELS = {
    "qwen2": Transformer(CONFIG),
    "rwkv7": RWKV7(
        RWKV7Config(
            width=384,
            layers=4,
            heads=6,
            feedforward=1536,
            vocabulary=4096,
            decay_rank=32,
            rate_rank=32,
            value_rank=16,
            gate_rank=64,
        )
    ),
}
# Matrices that are multiplied evolve, as when a checkpoint is fine-tuned; what scales,
# shifts and looks up stays.
FROZEN = ["embed", "**/*norm", "**/*bias"]
VECTORS = [f"layers/{x}" for x in ("x_*", "w0", "a0", "v0", "k_k", "k_a", "r_k")]
RULES = {
    "qwen2": dict.fromkeys(FROZEN, eggroll.frozen),
    "rwkv7": dict.fromkeys([*FROZEN, *VECTORS], eggroll.frozen),
}
Calls = dict[str, Callable[[], Any]]


class Ending(Transformer):
    """Ends a row at position 80: after a quarter of 64 tokens, or, short, of all."""

    def decode(self, params, token, state):
        logits, state = super().decode(params, token, state)
        is_end = state.positions >= PROMPT + NEW // 4
        return logits.at[:, END].set(jnp.where(is_end, jnp.inf, -jnp.inf)), state


def against(name: str) -> str:
    """The case that another is compared with."""
    model, _, case = name.partition(" ")
    if name == "halved":
        return "even"
    return f"{model} plain{' score' * case.endswith('score')}"


def uneven(members: int) -> Calls:
    """Completions of which half end early, without and with gathering the rest."""
    model, key = Ending(CONFIG), jax.random.key(1)
    params = jax.jit(model.init)(jax.random.key(0))
    prompts = jax.random.randint(key, (members, 8, PROMPT), 1, CONFIG.vocabulary)
    lengths = jnp.where(jnp.arange(8) % 2, PROMPT, PROMPT + NEW // 4 - NEW + 1)
    es = eggroll.EvolutionStrategy(members, 0.01, rules=RULES["qwen2"], strict=True)

    def call(halvings, new=NEW):
        def complete(params, prompts):
            return generate(
                model,
                params,
                prompts,
                lengths,
                new_tokens=new,
                end_tokens=(END,),
                halvings=halvings,
            ).lengths

        ask = es.ask(complete, in_axes=0)
        compiled = jax.jit(lambda params, rows: ask(params, key, rows)[0])
        return lambda: compiled(params, prompts)

    return {"even": call(0), "halved": call(1), "even, first token": call(0, 1)}


def cases(name: str, members: int, few: int) -> Calls:
    """The calls of a model to be timed, by name."""
    model, rules = MODELS[name], RULES[name]
    params = jax.jit(model.init)(jax.random.key(0))
    key, rows = jax.random.key(1), jax.random.randint
    prompts = rows(key, (members, PROMPT), 0, CONFIG.vocabulary)
    texts = rows(key, (members, PROMPT + NEW), 0, CONFIG.vocabulary)
    low = eggroll.EvolutionStrategy(members, 0.01, rules=rules, strict=True)
    every = eggroll.EvolutionStrategy(members, 0.01, strict=True)
    full = eggroll.EvolutionStrategy(few, 0.01, rules={"**": eggroll.full_rank()})

    def complete(params, prompts):
        lengths = jnp.full(prompts.shape[0], PROMPT)
        return generate(
            model, params, prompts, lengths, new_tokens=NEW, end_tokens=()
        ).tokens

    def likelihood(params, texts):
        starts = jnp.full(texts.shape[0], PROMPT)
        return score(model, params, texts, starts, starts + NEW)

    def asked(es, function):
        ask = es.ask(lambda params, row: function(params, row[None]), in_axes=0)
        compiled = jax.jit(lambda params, rows: ask(params, key, rows)[0])
        return lambda rows: lambda: compiled(params, rows)

    plain, plain_score = jax.jit(complete), jax.jit(likelihood)
    calls = {
        "plain": lambda: plain(params, prompts),
        "population": asked(low, complete)(prompts),
        "every leaf": asked(every, complete)(prompts),
        "full rank": asked(full, complete)(prompts[:few]),
        "plain score": lambda: plain_score(params, texts),
        "population score": asked(low, likelihood)(texts),
        "every leaf score": asked(every, likelihood)(texts),
    }
    if name == "rwkv7":
        del calls["full rank"]
    return {f"{name} {case}": call for case, call in calls.items()}


def measured(calls: Calls, repetitions: int) -> dict[str, dict[str, list[float]]]:
    """Wall and processor seconds of each call, in turns; and those of the first."""
    found = {name: {"wall": [], "processor": []} for name in calls}
    for _ in range(1 + repetitions):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            found[name]["wall"].append(time.perf_counter() - wall)
            found[name]["processor"].append(time.process_time() - processor)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--full", type=int, default=8, help="members with full rank")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="+")
    options = parser.parse_args()
    calls: Calls = {}
    for name in MODELS:
        calls |= cases(name, options.members, options.full)
    calls |= uneven(options.members // 8)
    known = [*calls]
    calls = {name: calls[name] for name in options.only or calls}
    found = {}
    for name, spent in measured(calls, options.repetitions).items():
        one = found[name] = {
            kind: statistics.median(seconds[1:]) for kind, seconds in spent.items()
        }
        one["first"], one["first processor"] = spent["wall"][0], spent["processor"][0]
        members = options.full if name.endswith("full rank") else options.members
        one["per second"] = members * NEW / one["wall"]  # as if none ended early
        print(
            f"{name:<28} {one['per second']:>7,.0f} tokens/s, {one['wall']:.2f} s "
            f"({one['processor']:.2f} s of processors), first call {one['first']:.1f} s"
            f" ({one['first processor']:.1f})"
        )
    for name in found:
        base = against(name)
        if base in found and base != name:
            rows = options.full / options.members if name.endswith("full rank") else 1
            for kind in ("processor", "wall"):
                ratio = rows * found[base][kind] / found[name][kind]
                found[name][f"relative {kind}"] = ratio
                print(f"{name} / {base}: {ratio:.3f} ({kind})")
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    before = json.loads(RESULTS.read_text())["cases"] if options.only else {}
    cases_now = {name: one for name, one in (before | found).items() if name in known}
    facts = {**machine, "versions": runs.versions(), "cases": cases_now}
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

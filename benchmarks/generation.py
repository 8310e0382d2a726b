"""The price of a population's completions and scores, against plain batched ones.

    python -m benchmarks.generation                          # run it alone
    python -m benchmarks.generation --repetitions 3 --only plain population

A Qwen2 shape of 10 million random weights, each member with a prompt of its own of 64
tokens and 64 greedy tokens after it. "plain" is the same rows with the weights as they
are, "population" low-rank members (rademacher, rank 1), "full rank" fewer members whose
perturbations are written out. In "even" an eighth of the members complete eight prompts
each, half of which end at a quarter of the length; "halved" is the same, and gathers
the rows that are left. The cases take turns; medians are compared.
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
AGAINST = {
    "population": "plain",
    "full rank": "plain",
    "population score": "plain score",
    "halved": "even",
}
Calls = dict[str, Callable[[], Any]]


class Ending(Transformer):
    """Ends a row at position 80: after a quarter of 64 tokens, or, short, of all."""

    def decode(self, params, token, state):
        logits, state = super().decode(params, token, state)
        is_end = state.positions >= PROMPT + NEW // 4
        return logits.at[:, END].set(jnp.where(is_end, jnp.inf, -jnp.inf)), state


def uneven(members: int) -> Calls:
    """Completions of which half end early, without and with gathering the rest."""
    model, key = Ending(CONFIG), jax.random.key(1)
    params = jax.jit(model.init)(jax.random.key(0))
    prompts = jax.random.randint(key, (members, 8, PROMPT), 1, CONFIG.vocabulary)
    lengths = jnp.where(jnp.arange(8) % 2, PROMPT, PROMPT + NEW // 4 - NEW + 1)
    es = eggroll.EvolutionStrategy(members, 0.01, strict=True)

    def call(halvings):
        def complete(params, prompts):
            return generate(
                model,
                params,
                prompts,
                lengths,
                new_tokens=NEW,
                end_tokens=(END,),
                halvings=halvings,
            ).lengths

        ask = es.ask(complete, in_axes=0)
        compiled = jax.jit(lambda params, rows: ask(params, key, rows)[0])
        return lambda: compiled(params, prompts)

    return {"even": call(0), "halved": call(1)}


def cases(members: int, few: int) -> Calls:
    """The calls to be timed, by name."""
    model = Transformer(CONFIG)
    params = jax.jit(model.init)(jax.random.key(0))
    key, rows = jax.random.key(1), jax.random.randint
    prompts = rows(key, (members, PROMPT), 0, CONFIG.vocabulary)
    texts = rows(key, (members, PROMPT + NEW), 0, CONFIG.vocabulary)
    low = eggroll.EvolutionStrategy(members, 0.01, strict=True)
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
    return {
        "plain": lambda: plain(params, prompts),
        "population": asked(low, complete)(prompts),
        "full rank": asked(full, complete)(prompts[:few]),
        "plain score": lambda: plain_score(params, texts),
        "population score": asked(low, likelihood)(texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--full", type=int, default=8, help="members with full rank")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="+")
    options = parser.parse_args()
    calls = cases(options.members, options.full) | uneven(options.members // 8)
    calls = {name: calls[name] for name in options.only or calls}
    first, times = {}, {name: [] for name in calls}
    for name, call in calls.items():
        started = time.perf_counter()
        jax.block_until_ready(call())
        first[name] = time.perf_counter() - started
    for _ in range(options.repetitions):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - started)
    found = {
        name: {"seconds": statistics.median(spent), "first": first[name]}
        for name, spent in times.items()
    }
    for name, one in found.items():
        members = options.full if name == "full rank" else options.members
        one["per second"] = members * NEW / one["seconds"]  # as if none ended early
        print(
            f"{name:<18} {one['per second']:>9,.0f} tokens/s, {one['seconds']:.2f} s, "
            f"first call {one['first']:.1f} s"
        )
    for name, base in AGAINST.items():
        if name in found and base in found:
            ratio = found[name]["per second"] / found[base]["per second"]
            print(f"{name} / {base}: {ratio:.3f}")
    if not options.only:
        machine = {"cores": os.cpu_count(), "machine": platform.machine()}
        facts = {**machine, "versions": runs.versions(), "cases": found}
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""SmolLM2-135M on Countdown, by evolution and by gradients, on one accelerator.

    python -m benchmarks.reasoning_accelerator --checkpoint FILE.gguf [--json FILE]

The model is fine-tuned on reference answers until it solves `START` of the held-out
problems. From there EGGROLL and GRPO learn on: of each, a few settings for `--search`
seconds, then the best of them, from the start again, for `--seconds`. The clock is the
wall's, of learning alone: compilation (two steps) and validation are not counted.

Needs an accelerator with 16 GB. It keeps to `--limit`, and saves as it goes.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from benchmarks.reasoning_start import COMPLETED, solved
from eggroll import runs, training
from eggroll.config import load
from eggroll.training import Experiment, Purpose, key_for
from tasks.reasoning.likelihood import Likelihood
from tasks.reasoning.task import Reasoning


SETTINGS = Path(__file__).with_name("reasoning_accelerator.yaml")
START, EVERY = 0.25, 25  # the share that is solved; steps between looks
TUNING = {
    "algorithm": "backprop",
    "optimizer.name": "adam",
    "learning_rate": 1e-4,
    "examples": 128,
}
POPULATION = 256


def evolved(sigma: float, share: float) -> dict[str, Any]:
    """A step moves a weight by about a share of sigma."""
    rate = float(f"{share * sigma**2 * POPULATION**0.5:.3g}")
    return {"sigma": sigma, "learning_rate": rate}


METHODS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "EGGROLL": (
        {"population": POPULATION, "prompts": 16},
        [evolved(0.002, 0.06), evolved(0.004, 0.06)],
    ),
    "GRPO": (
        {
            "algorithm": "grpo",
            "optimizer.name": "adam",
            "prompts": 64,
            "completions": 8,
            "temperature": 1.0,
        },
        [{"learning_rate": 3e-6}, {"learning_rate": 1e-5}],
    ),
}


class Lesson(NamedTuple):
    """What a method learns with some settings, compiled once.

    Attributes:
        name: of both.
        experiment: that they make.
    """

    name: str
    experiment: Experiment


def prepared(
    checkpoint: Path, changes: Mapping[str, Any], task: type = Reasoning, seed: int = 0
) -> Experiment:
    given = {
        "task.class": f"{task.__module__}:{task.__name__}",
        "checkpoint": checkpoint,
        "seed": seed,
        **(COMPLETED if task is Reasoning else {}),
        **changes,
    }
    pairs = [(name, str(value)) for name, value in given.items()]
    return training.prepare(load(SETTINGS, pairs, name="run"))


def fine_tuned(checkpoint: Path, judge: Any) -> tuple[PyTree, dict[str, Any]]:
    """The parameters that all start from, and how they came about."""
    began = time.perf_counter()
    experiment = prepared(checkpoint, TUNING, Likelihood)
    state = training.initial_state(experiment)
    curve = {0: solved(judge, state.params)}
    while curve[max(curve)] < START:
        for step in range(max(curve), max(curve) + EVERY):
            data = experiment.task.batch(state.task, step, state.key)
            state, _ = experiment.algorithm.step(state, data)
        curve[int(state.step)] = solved(judge, state.params)
        say(f"fine-tuning: {int(state.step)} steps, {curve[int(state.step)]:.3f}")
    seconds = time.perf_counter() - began
    return jax.device_get(state.params), {"curve": curve, "seconds": seconds}


def learn(
    lesson: Lesson, start: PyTree, judge: Any, seconds: float, looks: int
) -> dict[str, Any]:
    """Learns from the start for so long; returns the curve."""
    task, algorithm = lesson.experiment.task, lesson.experiment.algorithm

    def fresh() -> Any:
        params = jax.tree.map(jnp.asarray, start)
        made = training.initial_state(lesson.experiment)
        return made._replace(params=params, opt_state=algorithm.init(params))

    def advance(state: Any, step: int) -> tuple[Any, float]:
        data = task.batch(state.task, step, key_for(state.key, Purpose.BATCH, step))
        state, figures = algorithm.step(state, data)
        return jax.block_until_ready(state), float(figures["samples"])

    began, state = time.perf_counter(), fresh()
    for step in range(2):
        state, _ = advance(state, step)
    compiling = time.perf_counter() - began
    state, curve = fresh(), []
    spent, tokens, steps = 0.0, 0.0, 0
    while True:
        if spent >= seconds * len(curve) / looks:
            found = solved(judge, state.params)
            curve.append(dict(seconds=spent, steps=steps, tokens=tokens, solved=found))
            if spent >= seconds:
                break
        began = time.perf_counter()
        state, read = advance(state, steps)
        spent += time.perf_counter() - began
        tokens, steps = tokens + read, steps + 1
    last = curve[-1]
    say(
        f"{lesson.name}: {last['solved']:.3f} after {last['seconds']:.0f} s, "
        f"{steps} steps of {1e3 * spent / steps:.0f} ms, {tokens / spent:,.0f} tokens/s"
        f" ({compiling:.0f} s before)"
    )
    say("  " + " ".join(f"{x['seconds']:.0f}s:{x['solved']:.3f}" for x in curve))
    return {"name": lesson.name, "curve": curve, "compiling": compiling}


def compare(options: argparse.Namespace) -> None:
    """The whole comparison; what is found is saved after each of its runs."""
    began = time.perf_counter()
    device = jax.devices()[0].device_kind
    found: dict[str, Any] = {"device": device, "versions": runs.versions()}

    def save(**more: Any) -> None:
        found.update(more)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")

    def left() -> float:
        return options.limit - (time.perf_counter() - began)

    judge = prepared(options.checkpoint, {}).task
    start, tuning = fine_tuned(options.checkpoint, judge)
    save(tuning=tuning)
    lessons = {
        name: [
            Lesson(f"{name} {one}", prepared(options.checkpoint, {**fixed, **one}))
            for one in search
        ]
        for name, (fixed, search) in METHODS.items()
    }
    searches = [
        (name, lesson, learn(lesson, start, judge, options.search, 1))
        for name, tried in lessons.items()
        for lesson in tried
    ]
    save(searches=[x for *_, x in searches])
    long = []
    for k, name in enumerate(lessons):
        tried = [(lesson, x) for owner, lesson, x in searches if owner == name]
        best, _ = max(tried, key=lambda pair: pair[1]["curve"][-1]["solved"])
        seconds = min(options.seconds, 0.9 * left() / (len(lessons) - k) - 5)
        long.append(learn(best, start, judge, seconds, 6))
        save(long=long)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--search", type=float, default=15)
    parser.add_argument("--limit", type=float, default=1800)
    parser.add_argument("--json", type=Path)
    compare(parser.parse_args())


if __name__ == "__main__":
    main()

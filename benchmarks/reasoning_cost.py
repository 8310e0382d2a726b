"""What a step of evolution, GRPO and fine-tuning takes, of one model and one batch.

    make smollm2
    python -m benchmarks.reasoning_cost FILE.gguf

SmolLM2-135M-Instruct on the sums of `configs/reasoning/demo.yaml`, of which a step of
each has 64 completions (8 prompts by 8 members, or 8 times) or reads 64 answers; the
layers' matrices are learnt, in float32. Each is a process of its own, bound to one
core; seconds are the processor's, the median of `STEPS` after the first, which
compiles. Peak memory is the process's, after so many steps; a process that only holds
the parameters is told beside them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import yaml

from eggroll import training
from eggroll.config import Config, override, resolve
from eggroll.training import Purpose, key_for


SETTINGS = Path(__file__).parent.parent / "configs" / "reasoning" / "demo.yaml"
RESULT = Path(__file__).parent / "results" / "reasoning-cost.json"
STEPS = 3
ONLY_COMPLETED = ("prompts", "halvings", "workers", "compare_with_start")
GRPO = {"algorithm": "grpo", "completions": 8, "temperature": 1.0}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "EGGROLL": {"population": 8},
    "OpenES": {"algorithm": "openes", "population": 8, "chunk_size": 2},
    "GRPO, SGD": GRPO,
    "GRPO, Adam": {**GRPO, "optimizer.name": "adam"},
    "SFT, SGD": {"algorithm": "backprop", "examples": 64},
    "SFT, Adam": {"algorithm": "backprop", "examples": 64, "optimizer.name": "adam"},
}


def settings(name: str, model: str) -> Config:
    """The demonstration's, as a method has them."""
    tree = yaml.safe_load(SETTINGS.read_text())
    changes = {**METHODS[name], "checkpoint": model}
    if "examples" in changes:
        task = {k: v for k, v in tree["task"].items() if k not in ONLY_COMPLETED}
        tree["task"] = {**task, "class": "tasks.reasoning.likelihood:Likelihood"}
    for key, value in changes.items():
        override(tree, key, value)
    return resolve({**tree, "name": "cost"})


def measure(name: str, model: str) -> dict[str, float]:
    """What steps of a method take; of a process of its own."""
    experiment = training.prepare(settings(name, model))
    task, algorithm = experiment.task, experiment.algorithm
    state, times = training.initial_state(experiment), [0.0, 0.0]
    steps = STEPS + 1 if name != "nothing" else 0
    for step in range(steps):
        began = time.process_time()
        data = task.batch(state.task, step, key_for(state.key, Purpose.BATCH, step))
        state, _ = algorithm.step(state, data)
        jax.block_until_ready(state)
        times.append(time.process_time() - began)
    return {
        "seconds": statistics.median(times[-STEPS:]),
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the checkpoint")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.model)))
        return
    core = max(os.sched_getaffinity(0))
    found = {}
    for name in METHODS:
        command = [sys.executable, "-m", "benchmarks.reasoning_cost", arguments.model]
        done = subprocess.run(
            [*command, "--one", name],
            check=True,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        found[name] = json.loads(done.stdout.splitlines()[-1])
        seconds, peak = found[name].values()
        print(f"| {name} | {seconds:.1f} | {peak:,.0f} |", flush=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What twenty steps of every family of runs come to: `python tests/support/golden.py`.

Prints (or with `--write` saves to `golden.json`) a digest of the parameters. A change
that should not change numbers leaves them as they are, bit for bit on the machine that
wrote them, and to rounding on others.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


ROOT = Path(__file__).parent.parent.parent
FILE = Path(__file__).with_suffix(".json")
STEPS = 20
SMALL = ["population=16", "seed=3", "devices=1"]
POLICY = ["task.hidden=[8]", "task.episodes=1", "task.max_steps=30"]
TEXTS = ["lanes=4", "tokens=8", "layers=1", "width=16", "validation_lanes=4"]


class Case(NamedTuple):
    """A config and what is changed in it."""

    config: str
    changes: list[str]


def _control(algorithm: str, *more: str) -> Case:
    return Case("rl/cartpole.yaml", [f"algorithm={algorithm}", *POLICY, *more])


def _language(algorithm: str, *more: str) -> Case:
    path = "language/pretrain.yaml"
    return Case(path, [f"algorithm={algorithm}", *TEXTS, *more])


CASES = {
    "regression, rank 1": Case("supervised/regression.yaml", []),
    "regression, rank 3, gaussian": Case(
        "supervised/regression.yaml", ["rank=3", "noise=gaussian"]
    ),
    "regression, full rank": Case("supervised/regression.yaml", ["algorithm=openes"]),
    "regression, full rank, gaussian": Case(
        "supervised/regression.yaml", ["algorithm=openes", "noise=gaussian"]
    ),
    "regression, backprop": Case("supervised/regression.yaml", ["algorithm=backprop"]),
    "regression, bfloat16, reuse, chunks": Case(
        "supervised/regression.yaml",
        ["precision=bfloat16", "noise_reuse=4", "chunk_size=6"],
    ),
    "regression, without pairs": Case(
        "supervised/regression.yaml", ["antithetic=false", "shaping=centred_rank"]
    ),
    "regression, schedules": Case(
        "supervised/regression.yaml",
        ["sigma={start: 0.1, end: 0.01, steps: 10, kind: cosine}", "optimizer=sgd"],
    ),
    "spirals": Case("supervised/spirals.yaml", ["shaping=pair_sign"]),
    "control": _control("eggroll"),
    "control, full rank": _control("openes"),
    "control, PPO": _control("ppo", "task.ppo={workers: 4, steps: 16, minibatches: 2}"),
    "control, convolutions": _control(
        "eggroll",
        "environment=gymnax/Breakout-MinAtar",
        "network=conv",
        "task.hidden=[8, 8]",
    ),
    "integers": _language("integer", "sigma=0.0625"),
    "integers, rank 4, signs": _language(
        "integer", "rank=4", "stepping.weighting=sign"
    ),
    "integers, gaussian": _language(
        "integer", "noise=gaussian", "stepping.weighting=sign"
    ),
    "integers, as published": _language("integer", "stepping.paper=true"),
    "integers, memoryless": _language("integer", "stepping.rule=memoryless"),
    "GRU, evolved": _language("eggroll"),
    "GRU, backprop": _language("backprop", "model=gru"),
    "Transformer, backprop": _language("backprop"),
}


def digest(name: str, output: Path, corpus: Path) -> dict[str, Any]:
    """Runs a case; returns the hash of its parameters, and their size leaf by leaf."""
    params = _trained(CASES[name], output, corpus)
    arrays = [np.asarray(x) for x in jax.tree.leaves(params)]
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    wide = [array.astype(np.float64).ravel() for array in arrays]
    # a projection, in which any change shows
    seen = [float(x @ np.cos(np.arange(x.size))) for x in wide]
    return {"sha256": sha.hexdigest()[:16], "projections": seen}


def _trained(case: Case, output: Path, corpus: Path) -> Any:
    from eggroll import runs, training
    from eggroll.config import load

    words = [*SMALL, *case.changes]
    pairs = [(name, value) for name, _, value in (w.partition("=") for w in words)]
    if case.config.startswith("language"):
        pairs.append(("corpus", str(corpus)))
    budget = {"generations": str(STEPS), "output": str(output), "evaluate_every": "20"}
    config = load(
        ROOT / "configs" / case.config, [*pairs, *budget.items()], name="golden"
    )
    outcome = training.train(training.prepare(config), runs.create(config))
    assert int(outcome.state.step) == STEPS
    return outcome.state.params


def main() -> None:
    import tempfile

    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/support")]
    from texts import folder_of

    saved: Mapping[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = folder_of(Path(folder) / "texts")
        for name in CASES:
            found[name] = digest(name, Path(folder), corpus)
            same = saved.get(name, {}).get("sha256") == found[name]["sha256"]
            print(f"{found[name]['sha256']}  {'same' if same else 'OTHER'}  {name}")
    if "--write" in sys.argv:
        FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

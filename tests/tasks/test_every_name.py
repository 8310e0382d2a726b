"""Every environment that a library lists runs a generation, or is refused in a line.

One test a library: it lists the names itself, goes over all of them and tells what
failed by name. Nothing else may happen: no other exception, no warning, no name that
takes minutes. Of the libraries in `TRACED`, whose many or large programs take long to
compile, every name's generation is traced, but only every eighth is executed.
"""

import importlib
import re
import signal
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import pytest

from eggroll import UserError
from eggroll.config import resolve
from eggroll.training import Purpose, initial_state, key_for, prepare


pytestmark = [
    pytest.mark.slow,
    # Of BinPack's own code, and of what JAX will refuse one day.
    pytest.mark.filterwarnings("ignore:scatter inputs have incompat:FutureWarning"),
]

MEMBERS, STEPS = 4, 3
LONGEST = 300  # seconds of a processor, for one name
LIBRARIES = (
    "brax",
    "craftax",
    "gymnax",
    "jaxmarl",
    "jumanji",
    "mujoco_playground",
    "navix",
    "pgx",
)
TRACED = ("brax", "jaxmarl", "mujoco_playground", "navix")


def generation(*, executed: bool = True, **task: Any) -> None:
    """One generation of a tiny population, to the updated parameters."""
    settings = resolve(
        {
            "task": {"hidden": [4], "max_steps": STEPS, **task},
            "strategy": {"population": MEMBERS, "sigma": 0.1},
            "optimizer": {"name": "sgd", "learning_rate": 0.1},
            "budget": {"generations": 1},
            "mesh": {"devices": 1},
            "name": "one",
        }
    )
    experiment = prepare(settings)
    state = initial_state(experiment)
    data = experiment.task.batch(state.task, 0, key_for(state.key, Purpose.BATCH, 0))
    if not executed:
        jax.eval_shape(experiment.algorithm.trial, state, data)
        return
    after, metrics = experiment.algorithm.step(state, data)
    assert after.step == 1
    assert 0 < metrics["samples"] <= MEMBERS * STEPS, metrics
    assert np.isfinite(metrics["fitness/mean"]), metrics
    assert metrics["fitness/nonfinite"] == 0, metrics


@contextmanager
def limited(seconds: int):
    """Raises TimeoutError in what computes for longer, beside whatever else runs."""

    def late(*_):
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def refusal(**task: Any) -> str | None:
    """What is said against an environment, in one line; None: it ran."""
    try:
        with limited(LONGEST):
            generation(**task)
    except UserError as error:
        message = str(error)
        assert len(message) < 500, message
        assert "\n" not in message, message
        return message
    return None


def failures(names: Iterable[str], attempt: Callable[[str], Any]) -> dict[str, str]:
    """What went wrong, by name: one bad name hides no other."""
    found = {}
    for name in names:
        try:
            attempt(name)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error!s:.300}"
    return found


def attempt(name: str, executed: bool) -> None:
    """A game for two sides that is refused runs with the side that it is told of."""
    task: dict[str, Any] = {
        "class": "tasks.control:Control",
        "environment": name,
        "executed": executed,
    }
    said = refusal(**task)
    if said and (advice := re.search(r"\{side: (\w+), opponent: (\w+)\}", said)):
        options = {"side": advice[1], "opponent": advice[2]}
        assert refusal(**task, environment_options=options) is None


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_name_of_a_library_runs_or_is_refused_in_a_line(library):
    adapter = importlib.import_module(f"tasks.control.adapters.{library}")
    try:
        names = list(adapter.names())
    except UserError as error:
        pytest.skip(str(error))  # it says how to get the library
    assert names
    executed = set(names[::8] if library in TRACED else names)
    one = lambda name: attempt(f"{library}/{name}", name in executed)
    assert failures(names, one) == {}


def test_every_name_of_gymnasium_runs_or_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo leaves a log
    gymnasium = pytest.importorskip(
        "gymnasium", reason="pip install 'eggroll-jax[rl-host]'"
    )
    host = {"class": "tasks.control.host:HostControl", "processes": 0}
    attempt = lambda name: refusal(**host, environment=name)
    assert failures(list(gymnasium.registry), attempt) == {}

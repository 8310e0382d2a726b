"""Strategies travel: pickled, copied, and unpickled where nothing is known of them."""

import copy
import functools
import json
import math
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

import eggroll
from eggroll import EvolutionStrategy, IntegerStrategy, shaping
from eggroll.evolution import pickling


ROOT = Path(__file__).parent.parent.parent
SCHEDULE = optax.linear_schedule(0.4, 0.1, 3)
pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")


def spread(*ids):
    return eggroll.population_mesh([jax.devices()[one] for one in ids])


def there_and_back(x):
    return pickle.loads(pickle.dumps(x))


VALUES = {
    "plain": EvolutionStrategy(16, 0.1),
    "groups": EvolutionStrategy(16, 0.1, shaping=shaping.groups(4)),
    "ranks": EvolutionStrategy(16, 0.1, shaping=shaping.ranks("last")),
    "function": EvolutionStrategy(16, 0.1, shaping=shaping.pair_sign),
    "rules": EvolutionStrategy(16, 0.1, rules={"w": eggroll.low_rank(2)}),
    "mesh": EvolutionStrategy(16, 0.1, mesh=spread(0, 1)),
    "mesh of other devices": EvolutionStrategy(16, 0.1, mesh=spread(5, 3, 7, 2)),
    "integers": IntegerStrategy(16),
    "integers, mesh": IntegerStrategy(16, mesh=spread(0, 1)),
}
each_way = pytest.mark.parametrize(
    "way",
    [there_and_back, copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)


@each_way
@pytest.mark.parametrize("es", VALUES.values(), ids=VALUES)
def test_a_strategy_comes_back_as_it_was(es, way):
    back = way(es)
    assert type(back) is type(es)
    assert back == es
    assert hash(back) == hash(es)


@each_way
def test_a_mesh_of_several_axes_comes_back_with_their_names_and_types(way):
    devices = np.array(jax.devices()).reshape(2, 4)
    types = (AxisType.Auto, AxisType.Explicit)
    mesh = Mesh(devices, ("population", "model"), axis_types=types)
    back = way(EvolutionStrategy(16, 0.1, mesh=mesh)).mesh
    assert back == mesh
    assert back.axis_types == types


@each_way
def test_a_schedule_of_optax_comes_back_with_its_values(way):
    pytest.importorskip("cloudpickle")
    back = way(EvolutionStrategy(16, SCHEDULE))
    assert [back.sigma(t) for t in range(5)] == [SCHEDULE(t) for t in range(5)]


def test_a_schedule_that_pickle_can_name_goes_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    back = there_and_back(EvolutionStrategy(16, functools.partial(math.pow, 0.5)))
    assert back.sigma.func is math.pow
    assert back.sigma(3) == 0.125


def test_a_spawned_process_finds_the_strategy_as_it_was():
    pytest.importorskip("cloudpickle")
    es = EvolutionStrategy(16, SCHEDULE, shaping=shaping.groups(4), mesh=spread(6, 1))
    program = (
        "import pickle, sys; es = pickle.load(sys.stdin.buffer); "
        "print([float(es.sigma(t)) for t in range(4)]); "
        "print([d.id for d in es.mesh.devices], es.shaping)"
    )
    words = [sys.executable, "-c", program]
    run = subprocess.run(words, cwd=ROOT, input=pickle.dumps(es), capture_output=True)
    assert not run.returncode, run.stderr.decode()
    sigmas, rest = run.stdout.decode().splitlines()
    assert json.loads(sigmas) == [float(SCHEDULE(t)) for t in range(4)]
    assert rest == f"[6, 1] {es.shaping}"


# --- What cannot be


def test_a_schedule_without_a_name_needs_cloudpickle(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    es = EvolutionStrategy(16, SCHEDULE)
    with pytest.raises(
        pickle.PicklingError,
        match=r"sigma cannot be pickled.*functools\.partial.*pip install cloudpickle",
    ):
        pickle.dumps(es)
    assert copy.deepcopy(es) == es


def test_what_cloudpickle_cannot_have_either_is_refused_in_words():
    pytest.importorskip("cloudpickle")
    lock = threading.Lock()
    es = EvolutionStrategy(16, 0.1, shaping=lambda f: f if lock else -f)
    refused = "shaping cannot be pickled, nor by cloudpickle: .*lock"
    with pytest.raises(pickle.PicklingError, match=refused):
        pickle.dumps(es)


def test_other_devices_stand_in_for_those_that_are_not_there(monkeypatch):
    sent = pickle.dumps(EvolutionStrategy(16, 0.1, mesh=spread(6, 7)))
    first = jax.devices()[:4]
    monkeypatch.setattr(jax, "devices", lambda platform: first)
    assert list(pickle.loads(sent).mesh.devices) == first[:2]


def test_a_mesh_of_more_devices_than_there_are_is_refused(monkeypatch):
    sent = pickle.dumps(EvolutionStrategy(16, 0.1, mesh=spread(0, 1, 2, 3)))
    first = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda platform: first)
    with pytest.raises(
        ValueError, match=r"has 4 devices of type cpu, and here are 2: .*mesh=None"
    ):
        pickle.loads(sent)


def test_a_mesh_of_a_platform_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="1 devices of type nowhere, and here are 0"):
        pickling.mesh_of("nowhere", (0,), (1,), ("population",), ("Auto",))

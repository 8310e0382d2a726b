"""One run of each network, from its start to a film."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from eggroll import UserError
from eggroll.cli.main import main
from eggroll.runs import Checkpoints
from tasks.control import Control, Discrete, Environment
from tasks.control.networks import NETWORKS, Network


class Grid(Environment):
    """Walks along the middle row of a picture; the reward is the place."""

    name = "grid"
    action_space = Discrete(2)
    observation_shape = (3, 3, 2)
    step_limit = 4

    def reset(self, key):
        place = jnp.int32(0)
        return place, self._see(place)

    def step(self, state, action, key):
        place = jnp.clip(state + 2 * action - 1, 0, 2)
        reward = place.astype(jnp.float32)
        return place, self._see(place), reward, jnp.bool(False)

    def render(self, state):
        return np.full((20, 20, 3), 40 * int(state), np.uint8)

    def _see(self, place):
        return jnp.zeros(self.observation_shape).at[1, place, 0].set(1.0)


def settings(output, network: str) -> dict:
    return {
        "task": {
            "class": "tasks.control:Control",
            "environment": "network_runs:Grid",
            "network": network,
            "hidden": [2, 4],
            "activation": "tanh",
            "evaluation_episodes": 2,
        },
        "strategy": {"population": 4},
        "mesh": {"devices": 1},
        "diagnose_every": 0,
        "checkpoint_every": 1,
        "budget": {"generations": 2},
        "output": str(output),
    }


@pytest.fixture(autouse=True)
def network_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "network_runs", sys.modules[__name__])


def last_state(path):
    from eggroll import runs, training

    like = training.initial_state(training.prepare(runs.load(path).config))
    return Checkpoints(path / "checkpoints").restore(like)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_each_network_trains_resumes_and_is_evaluated_and_filmed(
    tmp_path, capsys, network
):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path, network)))
    assert main(["train", str(path)]) == 0
    assert main(["train", str(path), "--generations", "1"]) == 0
    stopped, whole = tmp_path / "grid-2", tmp_path / "grid"
    assert main(["train", "--resume", str(stopped), "--generations", "2"]) == 0
    learnt = [
        (one.state.params, one.state.opt_state)
        for one in (last_state(whole), last_state(stopped))
    ]
    jax.tree.map(np.testing.assert_array_equal, *learnt)
    capsys.readouterr()
    assert main(["eval", str(stopped)]) == 0
    assert "grid-2 at step 2" in capsys.readouterr().out
    assert main(["render", str(stopped)]) == 0
    assert (stopped / "episode.gif").is_file()


@pytest.mark.parametrize("agents", [None, 2])
def test_what_a_network_remembers_at_first_belongs_to_no_trace(agents):
    network = Network("gru", (3,), 2, hidden=(4,), activation="tanh", agents=agents)
    jax.eval_shape(lambda: network.memory)
    shape = (4,) if agents is None else (agents, 4)
    np.testing.assert_array_equal(np.asarray(network.memory), np.zeros(shape))


def test_a_policy_is_not_shown_what_is_hidden(getkey):
    task = Control(environment=Grid(), unseen=(1,), hidden=(4,))
    assert task.env.name == "grid without 1"
    assert task.env.observation_shape == (3, 3, 1)
    state, observation = task.env.reset(getkey())
    whole = Grid()._see(state)
    np.testing.assert_array_equal(observation, whole[..., :1])
    _, observation, reward, done = task.env.step(state, jnp.int32(1), getkey())
    np.testing.assert_array_equal(observation[1, :, 0], [0, 1, 0])
    assert (reward, done) == (1, False)
    drawn = task.env.render(state)
    assert drawn is not None
    assert task.env.legal(state) is None


@pytest.mark.parametrize("unseen", [(2,), (-1,), (0, 1)])
def test_hiding_all_or_what_there_is_not_is_refused(unseen):
    with pytest.raises(
        UserError, match=r"unseen: expected (some, not all, of.*0 to 1|at least 0)"
    ):
        Control(environment=Grid(), unseen=unseen)

import importlib.util
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toyrun
import yaml
from PIL import Image

from eggroll import UserError
from eggroll.cli.main import main
from eggroll.runs import Frame, animation
from tasks.control import Box, Control, Environment
from tasks.control.adapters import make
from tasks.control.rendering import watch
from tasks.control.rollout import rollout


pytestmark = pytest.mark.filterwarnings("ignore:Brax System.*:UserWarning")

needs_gymnax = pytest.mark.skipif(
    not importlib.util.find_spec("gymnax"), reason="needs gymnax"
)
DRAWABLE = {
    "gymnax/CartPole-v1": False,
    "gymnax/Breakout-MinAtar": False,
    "navix/DoorKey-5x5-v0": False,
    "pgx/2048": False,
    "jumanji/Snake-v1": False,
    "jaxmarl/MPE_simple_spread_v3": False,
    "brax/inverted_double_pendulum": True,  # slow to compile
    "craftax/Craftax-Classic-Symbolic-v1": True,
    "mujoco_playground/CartpoleBalance": True,
}


def policy(environment):
    """One action after the other."""

    def act(observation, time, key, legal):
        if isinstance(environment.action_space, Box):
            return jnp.ones(environment.action_space.size), time + 1
        shape = () if environment.agents is None else (environment.agents,)
        count = environment.action_space.n
        liking = (jnp.arange(count) + time) % count
        return jnp.broadcast_to(jnp.argmax(liking), shape), time + 1

    return act


def watched(environment, steps: int) -> list[Frame]:
    act, start = policy(environment), jnp.int32(0)
    key = jax.random.key(0)
    return watch(environment, act, key, memory=start, step_limit=steps)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                pytest.mark.skipif(
                    not importlib.util.find_spec(name.split("/")[0]),
                    reason=f"needs {name.split('/')[0]}",
                ),
                *([pytest.mark.slow] if is_slow else []),
            ],
        )
        for name, is_slow in DRAWABLE.items()
    ],
)
def test_states_are_drawn_as_images_that_differ(name):
    images = [frame.draw() for frame in watched(make(name), 8)]
    assert len(images) > 2
    for image in images:
        assert image.dtype == np.uint8
        assert image.shape == images[0].shape
        assert image.shape[2] == 3
        assert min(image.shape[:2]) >= 40
    assert any(np.any(image != images[0]) for image in images)


@needs_gymnax
@pytest.mark.parametrize("name", ["Pendulum-v1", "Acrobot-v1", "MountainCar-v0"])
def test_classic_control_is_drawn_where_its_state_is(name):
    environment = make(f"gymnax/{name}")
    pictures = []
    for number in range(3):
        state, _ = environment.reset(jax.random.key(number))
        pictures.append(environment.render(state))
    assert np.any(pictures[0] != pictures[1])
    again, _ = environment.reset(jax.random.key(2))
    np.testing.assert_array_equal(environment.render(again), pictures[2])


@needs_gymnax
def test_the_episode_that_is_watched_is_the_first_of_a_rollout():
    environment, key = make("gymnax/CartPole-v1"), jax.random.key(0)
    start = jnp.int32(0)
    episodes = jax.jit(
        lambda: rollout(environment, policy(environment), key, memory=start)
    )()
    frames = watched(environment, environment.step_limit)
    steps, total = episodes.lengths[0], episodes.returns[0]
    assert len(frames) == steps + 1
    assert frames[0].caption == "step 0   return 0"
    assert frames[-1].caption == f"step {steps}   return {total:.4g}"


@needs_gymnax
def test_what_cannot_be_drawn_is_refused_naming_what_can():
    environment = make("gymnax/FourRooms-misc")
    with pytest.raises(UserError, match="FourRooms-misc cannot be drawn"):
        watched(environment, 5)


class Ramp(Environment):
    """A user's own environment: a grey that grows lighter by the action."""

    name = "ramp"
    action_space = Box((0.0,), (1.0,))
    observation_shape = (1,)
    step_limit = 12

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state, action, key):
        state = state + action / 20
        return state, state, action[0], jnp.bool_(False)

    def render(self, state):
        return np.full((30, 40, 3), 255 * state[0], np.uint8)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of a task in an environment of the user's own."""
    module = types.ModuleType("ramps")
    module.Ramp = Ramp
    monkeypatch.setitem(sys.modules, "ramps", module)
    path = tmp_path / "ramp.yaml"
    settings = {
        "task": {
            "class": "tasks.control:Control",
            "environment": "ramps:Ramp",
            "hidden": [4],
        },
        "strategy": {"population": 8},
        "mesh": {"devices": 1},
        "budget": {"generations": 1},
        "output": str(tmp_path),
    }
    path.write_text(yaml.safe_dump(settings))
    assert main(["train", str(path)]) == 0
    return tmp_path / "ramp"


def test_a_run_in_an_own_environment_is_filmed(run, tmp_path, capsys):
    assert main(["render", str(run)]) == 0
    with Image.open(run / "episode.gif") as gif:
        assert getattr(gif, "n_frames", 1) == Ramp.step_limit + 1
    assert "step 12" in capsys.readouterr().out
    strip = tmp_path / "strip.png"
    words = ["render", str(run), "--output", str(strip), "--steps", "2", "--step", "0"]
    assert main(words) == 0
    with Image.open(strip) as picture:
        one = animation.picture(Frame("", lambda: np.zeros((30, 40, 3), np.uint8)))
        assert picture.size == (3 * one.width, one.height)
    assert "step 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "episode.mp4"], "expected a file that ends in .gif"),
        (["--steps", "0"], "--steps: expected at least 1, got 0"),
        (["--step", "7"], "there is no checkpoint of step 7"),
    ],
)
def test_a_film_that_cannot_be_made_is_refused(run, capsys, words, message):
    assert main(["render", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_task_without_pictures_is_refused(tmp_path, capsys):
    run, _ = toyrun.train(toyrun.config(tmp_path, "generations=1"))
    assert main(["render", str(run.path)]) == 2
    assert "the task Line has nothing to draw" in capsys.readouterr().err


@needs_gymnax
def test_control_is_filmed_within_its_own_limit_of_steps():
    task = Control(environment="gymnax/Pendulum-v1", hidden=(4,), max_steps=3)
    frames = task.render(
        task.init(jax.random.key(0)), task.initial_state(), jax.random.key(1)
    )
    assert len(frames) == 4


@pytest.mark.parametrize("size", [(3, 4), (64, 96), (300, 480), (1000, 1000), (9, 900)])
def test_pictures_come_at_a_size_to_look_at(size):
    picture = animation.picture(Frame("step 3", lambda: np.zeros((*size, 3), np.uint8)))
    assert 200 <= max(picture.size) <= 1000


def test_a_strip_has_the_first_and_the_last_frame():
    shade = lambda value: Frame("", lambda: np.full((200, 200, 3), value, np.uint8))
    strip = animation.strip([shade(value) for value in range(100, 200)])
    pixels = np.asarray(strip)
    assert pixels[100, 100, 0] == 100
    assert pixels[-100, -100, 0] == 199
    assert strip.width > strip.height

"""What is wrong with an environment of one's own is said when it is made."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tasks.control import Box, Control, Discrete, Environment, MultiDiscrete
from tasks.control.inspection import inspected


@dataclasses.dataclass(frozen=True)
class Sound(Environment):
    """Nothing is wrong with it; those below break one thing each."""

    name = "sound"
    action_space = Discrete(2)
    observation_shape = (2,)
    step_limit = 5

    def reset(self, key):
        return {"time": 0}, jnp.zeros(2)

    def step(self, state, action, key):
        return {"time": state["time"] + 1}, jnp.zeros(2), 1.0, False


def of_step(change):
    """A `step` that returns something else than that of `Sound`."""
    return {"step": lambda self, *given: change(*Sound().step(*given))}


FAULTS = {
    "float done": (of_step(lambda s, o, r, d: (s, o, r, 0.0)), "bool; got float32"),
    "reward (1,)": (
        of_step(lambda s, o, r, d: (s, o, jnp.ones(1), d)),
        r"step: expected one number as reward; got float32\[1\]",
    ),
    "done (1,)": (
        of_step(lambda s, o, r, d: (s, o, r, jnp.zeros(1, bool))),
        r"end of the episode as one bool; got bool\[1\]",
    ),
    "observation shape": (
        {"observation_shape": (3,)},
        r"reset: expected observation of shape \(3,\); got float32\[2\]",
    ),
    "another one later": (
        of_step(lambda s, o, r, d: (s, jnp.zeros(4), r, d)),
        r"step: expected observation of shape \(2,\); got float32\[4\]",
    ),
    "dict observation": (
        {"reset": lambda self, key: ((), {"x": jnp.zeros(2)})},
        r"observation of shape \(2,\); got \{'x': 'float32\[2\]'\}",
    ),
    "integers": (
        {"reset": lambda self, key: ((), jnp.zeros(2, int))},
        "reset: expected observation of floats; got int32: convert it",
    ),
    "swapped": (
        {"reset": lambda self, key: (jnp.zeros(2), {"time": 0})},
        r"reset: expected observation of shape \(2,\); got \{'time': 'int32\[\]'\}",
    ),
    "five values": (
        of_step(lambda s, o, r, d: (s, o, r, d, {})),
        "step: expected .state, observation, reward, .* got 5 values",
    ),
    "one value": ({"reset": lambda self, key: jnp.zeros(2)}, "got 1 values"),
    "state": (
        of_step(lambda s, o, r, d: ((), o, r, d)),
        "step: expected a state like that of reset, {'time'",
    ),
    "no limit": ({"step_limit": None}, "step_limit: expected a number of steps"),
    "another space": ({"action_space": object()}, "action_space: expected Discrete"),
    "a team": ({"agents": 3}, r"shape: .* the first 3 \(agents\); got \(2,\)"),
    "mask": (
        {"legal": lambda self, state: jnp.ones(3, bool)},
        r"legal: expected mask of shape \(2,\); got bool\[3\]",
    ),
    "float mask": (
        {"legal": lambda self, state: jnp.ones(2)},
        "mask of bool; got float",
    ),
    "all-false mask": (
        {"legal": lambda self, state: jnp.zeros(2, bool)},
        "legal: expected an action that is legal in the first state; got none",
    ),
    "mask of a box": (
        {
            "action_space": Box((0.0,), (1.0,)),
            "legal": lambda self, state: jnp.ones(1, bool),
        },
        "legal: expected None of continuous actions",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_in_one_line(changes, message):
    broken = type("Broken", (Sound,), changes)()
    with pytest.raises(ValueError, match=message) as raised:
        Control(environment=broken)
    assert str(raised.value).startswith("sound: ")
    assert "\n" not in str(raised.value)


class Plain:
    """Inherits from nothing."""

    name, action_space, observation_shape, step_limit = "plain", Discrete(2), (2,), 5
    reset, step = Sound.reset, Sound.step


@pytest.mark.parametrize("environment", [Plain(), Sound, Plain])
def test_what_is_no_environment_is_refused(environment):
    with pytest.raises(ValueError, match=r"a class that inherits from"):
        Control(environment=environment)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"action_space": MultiDiscrete((2, 3))},
        {"action_space": Box((0.0,), (1.0,))},
        {"legal": lambda self, state: jnp.array([True, False])},
    ],
)
def test_a_sound_environment_is_itself(changes):
    environment = type("Fine", (Sound,), changes)()
    assert inspected(environment) is environment


def test_nothing_is_computed():
    reset = lambda self, key: ((), jax.debug.callback(pytest.fail) or jnp.zeros(2))
    step = lambda self, *given: ((), jnp.zeros(2), 0.0, False)
    inspected(type("Watched", (Sound,), {"reset": reset, "step": step})())

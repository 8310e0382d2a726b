"""Several choices at once, and films, of Gymnasium environments on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import UserError
from tasks.control import MultiDiscrete
from tasks.control.host import HostControl


gymnasium = pytest.importorskip("gymnasium")


def locks(kind="discrete", **options) -> HostControl:
    return HostControl(
        environment="host_environments:Locks-v0",
        environment_options={"kind": kind},
        hidden=(),
        processes=0,
        evaluation_episodes=2,
        **options,
    )


def opening(task, choices):
    """Parameters of a policy that chooses so, whatever it sees."""
    params = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    hot = [jax.nn.one_hot(one, n) for one, n in zip(choices, sizes(task), strict=True)]
    params["head"]["bias"] = jnp.concatenate(hot)
    return params


def sizes(task):
    return task.env.action_space.sizes


@pytest.mark.parametrize(
    ("kind", "each", "choices"),
    [
        ("discrete", (2, 3, 4, 2, 3, 4), (0, 2, 1, 1, 1, 0)),  # counted from 0
        ("binary", (2,) * 6, (1, 0, 0, 0, 1, 1)),
    ],
)
@pytest.mark.parametrize("wrong", [0, 2])
def test_several_choices_are_made_at_once(kind, each, choices, wrong):
    """Each step pays the number of the six that are right."""
    task = locks(kind)
    assert task.env.action_space == MultiDiscrete(each)
    tried = [
        (one + (i < wrong)) % n
        for i, (one, n) in enumerate(zip(choices, each, strict=True))
    ]
    params = opening(task, tried)
    metrics = task.validate(params, task.initial_state(), jax.random.key(1))
    assert metrics["return"] == 3 * (6 - wrong)


def test_an_episode_on_the_host_is_filmed():
    task = locks()
    params = opening(task, (0, 2, 1, 1, 1, 0))
    frames = task.render(params, task.initial_state(), jax.random.key(1))
    told = [f"step {i}   return {6 * i}" for i in range(4)]
    assert [frame.caption for frame in frames] == told
    for time, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.draw(), np.full((20, 30, 3), 50 * time))
    assert len(task.render(params, task.initial_state(), jax.random.key(1), 1)) == 2


def test_what_the_host_cannot_draw_is_refused():
    task = HostControl(environment="host_environments:Walk-v0", hidden=(4,))
    with pytest.raises(UserError, match="expected a render mode 'rgb_array', got none"):
        task.render(
            task.init(jax.random.key(0)), task.initial_state(), jax.random.key(1)
        )

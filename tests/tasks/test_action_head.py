import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.control import ActionHead, Box, Discrete, MultiDiscrete


HEADS = {
    "discrete": Discrete(3),
    "multi-discrete": MultiDiscrete((2, 3)),
    "box": Box((-2.0, 0.0), (2.0, 10.0)),
}
each_space = pytest.mark.parametrize("space", HEADS.values(), ids=HEADS)


@each_space
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_actions_lie_in_the_space_for_any_leading_axes(
    space, deterministic, squash, getkey
):
    head = ActionHead(space, deterministic, squash)
    outputs = 5 * jax.random.normal(getkey(), (20, 4, head.outputs))
    action = head.act(outputs, getkey())
    low, high = {
        "Discrete": lambda: (0, 2),
        "MultiDiscrete": lambda: (0, np.array([1, 2])),
        "Box": lambda: (np.array(space.low), np.array(space.high)),
    }[type(space).__name__]()
    assert action.shape[:2] == (20, 4)
    assert np.all((action >= low) & (action <= high))
    assert len(np.unique(action)) > 1


@each_space
def test_sampled_actions_follow_the_log_probability(space, getkey):
    """E[log p] of the drawn actions is minus the entropy, to 5 standard errors."""
    head = ActionHead(space, deterministic=False)
    outputs = jax.random.normal(getkey(), (head.outputs,))
    raw = jax.vmap(lambda key: head.sample(outputs, key))(
        jax.random.split(getkey(), 4000)
    )
    log_p = jax.vmap(lambda one: head.log_probability(outputs, one))(raw)
    error = np.std(log_p) / 4000**0.5
    assert abs(np.mean(log_p) + head.entropy(outputs)) < 5 * error


@pytest.mark.parametrize("deterministic", [True, False])
def test_illegal_actions_are_never_taken(deterministic, getkey):
    head = ActionHead(Discrete(4), deterministic)
    legal = jnp.array([False, True, False, True])
    outputs = jnp.array([9.0, 0.0, 9.0, 0.1])
    act = lambda key: head.act(outputs, key, legal)
    actions = jax.vmap(act)(jax.random.split(getkey(), 200))
    assert set(actions.tolist()) == ({3} if deterministic else {1, 3})


def test_unbounded_numbers_are_passed_on_unscaled():
    head = ActionHead(Box((-np.inf, -1.0), (np.inf, 1.0)))
    np.testing.assert_allclose(
        head.act(jnp.array([7.0, 100.0]), jax.random.key(0)), [7.0, 1.0]
    )


@pytest.mark.parametrize(
    "space",
    [
        lambda: Discrete(0),
        lambda: MultiDiscrete(()),
        lambda: MultiDiscrete((2, 0)),
        lambda: Box((0.0,), (1.0, 2.0)),
        lambda: Box((1.0,), (1.0,)),
    ],
)
def test_empty_spaces_are_refused(space):
    with pytest.raises(ValueError, match="needs"):
        space()

"""One look at an environment when it is made: what is wrong is said in one line."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from eggroll import UserError
from tasks.control.environment import Environment
from tasks.control.rollout import has_choice
from tasks.control.spaces import Box, Discrete, MultiDiscrete, Space


def inspected(environment: Environment) -> Environment:
    """The environment, seen to keep to the protocol; reset and step are only traced.

    Raises:
        UserError: something has another form than `Environment` says, or no action is
            legal in a first state.
    """
    if isinstance(environment, type) or Environment not in type(environment).__mro__:
        raise UserError(
            "environment: expected an object of a class that inherits from "
            f"tasks.control.Environment, got {environment!r:.80}"
        )
    _check_attributes(environment)
    shape = tuple(environment.observation_shape)
    key = jax.eval_shape(lambda: jax.random.key(0))
    made = jax.eval_shape(lambda key: _tuple(environment.reset(key)), key)
    if len(made) != 2:
        raise _error(
            environment, "reset", "(state, observation)", f"{len(made)} values"
        )
    state, observation = made
    _check_array(environment, "reset", "observation", observation, shape, jnp.floating)
    _check_mask(environment, state)
    if (won := jax.eval_shape(environment.won, state)) is not None:
        _check_array(environment, "won", "whether it is won", won, (), jnp.bool_)
    step = lambda *arguments: _tuple(environment.step(*arguments))
    after = jax.eval_shape(step, state, _action(environment), key)
    if len(after) != 4:
        what = "(state, observation, reward, whether it has ended)"
        raise _error(environment, "step", what, f"{len(after)} values")
    following, observation, reward, ended = after
    if _form(following) != _form(state):
        raise _error(
            environment,
            "step",
            f"a state like that of reset, {_brief(state)}",
            _brief(following),
        )
    _check_array(environment, "step", "observation", observation, shape, jnp.floating)
    _check_array(environment, "step", "reward", reward, (), jnp.number)
    _check_array(environment, "step", "end of the episode", ended, (), jnp.bool_)
    return environment


def _check_attributes(environment: Environment) -> None:
    is_count = lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= 1
    is_shape = lambda x: isinstance(x, tuple | list) and all(map(is_count, x))
    agents = getattr(environment, "agents", None)
    expected = {
        "name": ("a string", lambda x: isinstance(x, str)),
        "action_space": (
            "Discrete, MultiDiscrete or Box of tasks.control",
            lambda x: isinstance(x, get_args(Space)),
        ),
        "step_limit": ("a number of steps, at least 1", is_count),
        "agents": ("a number of agents, or None", lambda x: x is None or is_count(x)),
        "observation_shape": (
            "a tuple of sizes" + (f", the first {agents} (agents)" if agents else ""),
            lambda x: is_shape(x) and (agents is None or tuple(x[:1]) == (agents,)),
        ),
    }
    for attribute, (what, is_right) in expected.items():
        value = getattr(environment, attribute, None)
        if not is_right(value):
            raise _error(environment, attribute, what, f"{value!r:.80}")


def _check_mask(environment: Environment, state: PyTree) -> None:
    legal = jax.eval_shape(environment.legal, state)
    if legal is None:
        return
    space = environment.action_space
    if isinstance(space, Box):
        raise _error(environment, "legal", "None of continuous actions", _brief(legal))
    size = space.n if isinstance(space, Discrete) else sum(space.sizes)
    shape = (*_team(environment), size)
    _check_array(environment, "legal", "mask", legal, shape, jnp.bool_)

    def first(key):
        return has_choice(space, environment.legal(environment.reset(key)[0]))  # pyrefly: ignore[bad-argument-type]

    if not jax.jit(first)(jax.random.key(0)):
        what = "an action that is legal in the first state"
        raise _error(environment, "legal", what, "none")


def _check_array(
    environment: Environment,
    method: str,
    name: str,
    value: Any,
    shape: tuple[int, ...],
    kind: Any,
) -> None:
    what = f"{name} of shape {shape}" if shape else f"one number as {name}"
    what = f"{name} as one bool" if kind == jnp.bool_ and not shape else what
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape != shape:
        raise _error(environment, method, what, _brief(value))
    if not jnp.issubdtype(value.dtype, kind):
        kinds = {jnp.floating: "floats", jnp.number: "numbers", jnp.bool_: "bool"}
        got = f"{value.dtype}: convert it"
        raise _error(environment, method, f"{name} of {kinds[kind]}", got)


def _action(environment: Environment) -> jax.ShapeDtypeStruct:
    match environment.action_space:
        case Discrete():
            shape, dtype = (), jnp.int32
        case MultiDiscrete(sizes):
            shape, dtype = (len(sizes),), jnp.int32
        case space:
            shape, dtype = (space.size,), jnp.float32
    return jax.ShapeDtypeStruct((*_team(environment), *shape), dtype)


def _team(environment: Environment) -> tuple[int, ...]:
    return () if environment.agents is None else (environment.agents,)


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, tuple | list) else (values,)


def _form(tree: PyTree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [leaf.shape for leaf in leaves]


def _brief(tree: PyTree) -> str:
    if isinstance(tree, jax.ShapeDtypeStruct):
        return f"{tree.dtype}{list(tree.shape)}"
    short = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)
    return f"{short!s:.120}"


def _error(environment: Any, where: str, expected: str, got: str) -> UserError:
    name = getattr(environment, "name", type(environment).__name__)
    return UserError(f"{name!s:.60}: {where}: expected {expected}; got {got}")

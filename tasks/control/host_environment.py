"""What is to be known of a Gymnasium environment before it is run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eggroll import UserError
from tasks.control.environment import check_name, library
from tasks.control.spaces import Box, Discrete, MultiDiscrete, Space


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostEnvironment:
    """What is to be known of a Gymnasium environment; `tasks.control.pool` runs it.

    Attributes:
        name: what a reader of a curve should see.
        action_space: what the policy chooses from.
        observation_shape: shape of what the policy sees.
        step_limit: steps after which an episode is truncated, whatever happens.
        threshold: return at which it counts as solved, if its makers say so.
        masked: sizes of the choices that its masks of legal actions are about
            (`info["action_mask"]`); none: it has no masks.
        to_native: from actions of `action_space` to those of the environment, with any
            leading axes.
    """

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    threshold: float | None
    masked: tuple[int, ...]
    to_native: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)
    agents: None = None  # one alone


def describe(
    name: str, options: Mapping[str, Any], step_limit: int | None
) -> HostEnvironment:
    """Make an environment once, to know its spaces.

    Args:
        name: as Gymnasium knows it; `module:Name-v0` imports the module first.
        options: passed on to it.
        step_limit: of an environment that has none of its own.

    Raises:
        UserError: if there is no such environment (names the nearest), it cannot be
            made, or its spaces or its missing step limit do not serve.
    """
    gymnasium = library("gymnasium", extra="rl-host")
    from tasks.workers import make  # needs Gymnasium

    try:
        environment = make(name, options)
        _, info = environment.reset(seed=0)
    except gymnasium.error.UnregisteredEnv as error:
        if "/" in name and ":" not in name:  # of some package that registers it
            package = "ale_py" if name.startswith("ALE/") else "PACKAGE"
            raise UserError(
                f"gymnasium has no environment {name!r} by itself: say which package "
                f"registers it, {package}:{name}"
            ) from error
        check_name(
            name.partition(":")[2] or name, gymnasium.registry, library="gymnasium"
        )
        raise UserError(f"{name}: {error}") from error
    except Exception as error:
        raise UserError(f"{name} cannot be made: {error}") from error
    environment.close()
    spec, seen = environment.spec, environment.observation_space
    assert spec is not None
    assert seen.shape is not None
    limit = spec.max_episode_steps or step_limit
    if limit is None:
        raise UserError(
            f"{name} has no step limit of its own: set max_steps, so that every "
            "episode ends"
        )
    space, to_native = _action_space(name, environment.action_space, gymnasium.spaces)
    return HostEnvironment(
        name=f"gymnasium/{name}",
        action_space=space,
        observation_shape=seen.shape,
        step_limit=limit,
        threshold=spec.reward_threshold,
        masked=_sizes(space) if "action_mask" in info else (),
        to_native=to_native,
    )


def _sizes(space: Space) -> tuple[int, ...]:
    """Of the choices that make an action; none if it is of numbers."""
    if isinstance(space, Discrete):
        return (space.n,)
    return space.sizes if isinstance(space, MultiDiscrete) else ()


def _action_space(name: str, native: Any, spaces: Any) -> tuple[Space, Callable]:
    if isinstance(native, spaces.Discrete):
        return Discrete(int(native.n)), lambda chosen: native.start + chosen
    if isinstance(native, spaces.Box) and np.issubdtype(native.dtype, np.floating):
        size = int(np.prod(native.shape))
        shaped = lambda x: x.reshape(*x.shape[:-1], *native.shape).astype(native.dtype)
        try:
            return Box.of(native.low, native.high, size=size), shaped
        except ValueError as error:
            raise UserError(f"{name}: actions: {error}") from error
    if isinstance(native, spaces.MultiDiscrete | spaces.MultiBinary):
        is_binary = isinstance(native, spaces.MultiBinary)
        sizes = np.full(native.shape, 2) if is_binary else native.nvec
        start = 0 if is_binary else native.start
        folded = lambda chosen: chosen.reshape(*chosen.shape[:-1], *sizes.shape)
        kept = lambda chosen: (start + folded(chosen)).astype(native.dtype)
        return MultiDiscrete(tuple(map(int, sizes.ravel()))), kept
    raise UserError(
        f"{name}: expected actions of a space Discrete, MultiDiscrete, MultiBinary or "
        f"Box of floats, got {native}: wrap the environment, and register the wrapped "
        "one"
    )

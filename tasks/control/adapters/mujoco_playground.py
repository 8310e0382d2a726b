"""MuJoCo Playground: the DeepMind control suite and robots, simulated by MJX."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eggroll import UserError
from tasks.control.adapters.bodies import side_view
from tasks.control.drawing import Image
from tasks.control.environment import (
    Environment,
    check_name,
    check_options,
    library,
)
from tasks.control.spaces import Box, Space


_EXTRA = "rl-playground"
_OBSERVED = "state"  # where there are several; the others are a critic's, or pixels
_MENAGERIE = (
    "python -c 'from mujoco_playground._src import mjx_env as e; "
    "e.ensure_menagerie_exists()'"
)


def names() -> Collection[str]:
    """The environments that there are."""
    return _playground().registry.ALL_ENVS


def make(name: str, *, impl: str = "jax", **options: Any) -> "Playground":
    """Make the environment `name`, such as `CartpoleBalance`.

    Args:
        name: of the environment.
        impl: of MuJoCo: `jax`, or `warp` on NVIDIA's GPUs, where Warp is installed.
        **options: entries of the environment's configuration, such as `ctrl_dt`.

    Raises:
        UserError: for a robot whose model has not been downloaded: Playground would,
            without asking.
    """
    playground = _playground()
    registry, suite = playground.registry, playground.dm_control_suite
    check_name(name, registry.ALL_ENVS, library="mujoco_playground")
    if name not in suite.ALL_ENVS and not _source().MENAGERIE_PATH.exists():
        raise UserError(
            f"{name} needs the robots of MuJoCo Menagerie, which are not there. This "
            f"downloads them: {_MENAGERIE}"
        )
    config = registry.get_default_config(name)
    check_options(options, list(config), environment=f"mujoco_playground/{name}")
    changes = options | ({"impl": impl} if "impl" in config else {})
    config.update_from_flattened_dict(changes)
    try:
        environment = registry.load(name, config=config)
    except RuntimeError as error:  # of Warp, and of what an implementation lacks
        raise UserError(f"mujoco_playground/{name} cannot be made: {error}") from error
    start = jax.eval_shape(environment.reset, jax.random.key(0))
    if isinstance(start.obs, Mapping) and _OBSERVED not in start.obs:
        raise UserError(
            f"mujoco_playground/{name} observes {', '.join(start.obs)}: expected an "
            f"array, or one called {_OBSERVED!r} among others; leave out `vision`"
        )
    repeat = int(config.get("action_repeat", 1))
    return Playground(
        name=f"mujoco_playground/{name}",
        action_space=Box.of(-1, 1, size=environment.action_size),
        observation_shape=_observation(start).shape,
        step_limit=-(-int(config.episode_length) // repeat),
        environment=environment,
        repeat=repeat,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Playground(Environment):
    """An environment without the wrappers that reset it and count its steps.

    Attributes:
        repeat: how many of its steps one action lasts, whose rewards add up.
    """

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)
    repeat: int = 1

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        state = self._jitted[0](key)
        return state, _observation(state)

    @functools.cached_property
    def _jitted(self) -> tuple[Callable, Callable]:
        """Its reset and its step, which take seconds to trace: once, that is."""
        return jax.jit(self.environment.reset), jax.jit(self._steps)

    def _steps(self, state: Any, action: Array) -> tuple[Any, Float[Array, ""]]:
        def one(state: Any, _: None) -> tuple[Any, Float[Array, ""]]:
            state = self.environment.step(state, action)
            return state, state.reward

        state, rewards = jax.lax.scan(one, state, None, self.repeat)
        return state, jnp.sum(rewards)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        del key  # it draws from a key in its state, if at all
        state, reward = self._jitted[1](state, action)
        return state, _observation(state), reward, state.done.astype(bool)

    def render(self, state: Any) -> Image:
        """Draw the bodies seen from the side, in the plane of x and z."""
        return side_view(self.environment.mj_model, state.data.xpos, state.data.xquat)


def _observation(state: Any) -> Float[Array, "..."]:
    return state.obs[_OBSERVED] if isinstance(state.obs, Mapping) else state.obs


def _playground() -> Any:
    return library("mujoco_playground", extra=_EXTRA)


def _source() -> Any:
    return library("mujoco_playground._src.mjx_env", extra=_EXTRA)

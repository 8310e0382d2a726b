"""Kinetix: physics puzzles. Installed by the recipe of docs/kinetix.md."""

import dataclasses
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eggroll import UserError
from tasks.control.environment import Environment, check_name
from tasks.control.spaces import Box, Discrete, MultiDiscrete, Space


def make(name: str, *, actions: str = "MULTI_DISCRETE") -> "Kinetix":
    """Make the Kinetix level `name`, such as `l/hard_pinball`.

    Args:
        name: size (`s`, `m` or `l`) and name of a level that comes with Kinetix.
        actions: `MULTI_DISCRETE`, `DISCRETE` or `CONTINUOUS`.
    """
    if importlib.util.find_spec("kinetix") is None:
        raise UserError(
            "This environment needs Kinetix, whose requirements pip cannot resolve "
            "with this JAX: install it by the recipe of docs/kinetix.md."
        )
    _accept_old_names_in_clip()
    import kinetix
    from kinetix.environment import ActionType, ObservationType, make_kinetix_env
    from kinetix.util import load_from_json_file

    levels = Path(kinetix.__path__[0]) / "levels"
    found = levels.glob("*/*.json")
    known = [f"{path.parent.name}/{path.stem}" for path in found]
    check_name(name, known, library="kinetix")
    check_name(actions, [kind.name for kind in ActionType], library="kinetix's actions")
    level, static, parameters = load_from_json_file(f"{name}.json")
    environment = make_kinetix_env(
        action_type=ActionType[actions],
        observation_type=ObservationType.SYMBOLIC_FLAT,
        reset_fn=None,
        env_params=parameters,
        static_env_params=static,
        auto_reset=False,
    )
    return Kinetix(
        name=f"kinetix/{name}",
        action_space=_space(environment.action_space(parameters)),
        observation_shape=tuple(environment.observation_space(parameters).shape),
        step_limit=int(parameters.max_timesteps),
        environment=environment,
        parameters=parameters,
        level=level,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kinetix(Environment):
    """One Kinetix level, always started in the same way; what is seen is a vector."""

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)
    parameters: Any = dataclasses.field(repr=False)
    level: Any = dataclasses.field(repr=False)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        observation, state = self.environment.reset_env(
            key, self.parameters, override_reset_state=self.level
        )
        return state, observation

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        observation, state, reward, done, _ = self.environment.step_env(
            key, state, action, self.parameters
        )
        return state, observation, jnp.float32(reward), done


def _space(space: Any) -> Space:
    if hasattr(space, "number_of_dims_per_distribution"):
        return MultiDiscrete(tuple(map(int, space.number_of_dims_per_distribution)))
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    return Box.of(space.low, space.high, size=int(space.shape[0]))


def _accept_old_names_in_clip() -> None:
    """Let `jnp.clip` take `a_min` and `a_max` again, which jax2d 1.0 still passes."""
    original = jnp.clip
    if "a_min" in inspect.signature(original).parameters:
        return

    def clip(arr=None, /, min=None, max=None, *, a_min=None, a_max=None):
        min, max = (a_min if min is None else min), (a_max if max is None else max)
        return original(arr, min, max)

    clip.__doc__ = original.__doc__
    jnp.clip = clip  # pyrefly: ignore[bad-assignment]

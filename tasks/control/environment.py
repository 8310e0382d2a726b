"""The environment protocol, and how an environment is found by its name."""

import difflib
import importlib
from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from eggroll.errors import UserError
from tasks.control.spaces import Space


@runtime_checkable
class Environment(Protocol):
    """One environment, as pure functions. All batching is left to `jax.vmap`.

    An adapter is a frozen dataclass that inherits from this class, so that it gets
    the optional methods for free. Environments are never asked to reset themselves:
    what `step` returns after `done` is computed and thrown away.

    Attributes:
        name: what a reader of a curve should see.
        action_space: what `step` accepts.
        observation_shape: shape of what a policy sees; it is always float32.
        step_limit: steps after which an episode is truncated, whatever happens.
        agents: how many act at once, as a team; observations, actions and legal
            masks then have a leading axis of agents. None: one, without that axis.
    """

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    agents: int | None = None

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        """Start an episode.

        Returns:
            The state, any pytree, and the first observation.
        """
        ...

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        """Take one step.

        Returns:
            State, observation, reward, and whether the episode has ended by
            itself. Running into `step_limit` is no such end: the rollout sees to it.
        """
        ...

    def legal(self, state: Any) -> Bool[Array, "..."] | None:
        """Which actions may be taken: a mask over all logits; None: all of them."""
        del state

    def render(self, state: Any) -> UInt8[np.ndarray, "height width 3"] | None:
        """Draw a state, on the host; None: this environment cannot be drawn."""
        del state


ADAPTERS: dict[str, str] = {
    "brax": "tasks.control.adapters.brax:make",
    "craftax": "tasks.control.adapters.craftax:make",
    "gymnax": "tasks.control.adapters.gymnax:make",
    "jaxmarl": "tasks.control.adapters.jaxmarl:make",
    "jumanji": "tasks.control.adapters.jumanji:make",
    "kinetix": "tasks.control.adapters.kinetix:make",
    "navix": "tasks.control.adapters.navix:make",
    "pgx": "tasks.control.adapters.pgx:make",
}


def make(name: str, **options: Any) -> Environment:
    """Make an environment from `library/name`, or from the dotted path to a class.

    Args:
        name: for example `gymnax/CartPole-v1`; or `package.module:Class` for an
            environment of your own.
        **options: passed on; what there is depends on the library.

    Raises:
        UserError: if there is no such library or environment (names the nearest), or
            the library is not installed (says how to get it).
    """
    if ":" in name:
        return _load(name)(**options)
    library, _, rest = name.partition("/")
    if library not in ADAPTERS or not rest:
        raise UserError(
            f"Expected an environment as library/name or package.module:Class, got "
            f"{name!r}. Libraries: {', '.join(sorted(ADAPTERS))}."
            f"{_did_you_mean(library, ADAPTERS)}"
        )
    return _load(ADAPTERS[library])(rest, **options)


def library(module: str, *, extra: str) -> Any:
    """Import an optional library.

    Raises:
        UserError: if it is absent; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"This environment needs the package {error.name!r}, which is not "
            f"installed: pip install 'eggroll[{extra}]'."
        ) from error


def flatten(observation: Any) -> Float[Array, " size"]:
    """Join the leaves of a structured observation into one vector."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(observation)]
    return jnp.concatenate([leaf.astype(jnp.float32) for leaf in leaves])


def check_name(name: str, names: Collection[str], *, library: str) -> None:
    """Refuse a name that the library does not know, and suggest the nearest ones."""
    if name not in names:
        raise UserError(
            f"{library} has no environment {name!r}.{_did_you_mean(name, names)}"
        )


def check_options(
    options: Mapping[str, Any], known: Collection[str], *, environment: str
) -> None:
    """Refuse options that an environment does not have."""
    for option in options:
        if option not in known:
            raise UserError(
                f"{environment} has no option {option!r}.{_did_you_mean(option, known)}"
            )


def _did_you_mean(name: str, names: Collection[str]) -> str:
    folded = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.4)
    found = ", ".join(repr(folded[match]) for match in near)
    if not found:
        return f" It has: {', '.join(sorted(folded.values()))}."
    return f" Did you mean {found}?"


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        is_ours = isinstance(error, AttributeError) or f"{module}.".startswith(
            f"{error.name}."
        )
        if not is_ours:  # found, but itself in want of something
            raise
        raise UserError(
            f"Nothing found at {path!r}: {error}. Expected package.module:Class, "
            "importable from the current directory."
        ) from error

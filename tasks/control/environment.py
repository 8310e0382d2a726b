"""The environment protocol, and what its adapters have in common."""

import contextlib
import difflib
import importlib
import io
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from eggroll import UserError
from tasks.control import spaces
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

    def won(self, state: Any) -> Bool[Array, ""] | None:
        """Whether the team has won, where an episode has ended; None: nobody can."""
        del state

    def render(self, state: Any) -> UInt8[np.ndarray, "height width 3"] | None:
        """Draw a state, on the host; None: this environment cannot be drawn."""
        del state


def in_words(environment: Environment) -> dict[str, str]:
    """What a policy meets, by name, for people."""
    shape, agents = environment.observation_shape, environment.agents
    team = {} if agents is None else {"agents": f"{agents}, of a team"}
    return team | {
        "environment": environment.name,
        "observation": " × ".join(map(str, shape)) + " numbers",
        "action": spaces.in_words(environment.action_space),
        "step limit": f"{environment.step_limit:,}",
    }


def library(module: str, *, extra: str) -> Any:
    """Import an optional library, without what it prints meanwhile.

    Raises:
        UserError: if it is absent; the message says what to install.
    """
    try:
        with _silence():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"This environment needs the package {error.name!r}, which is not "
            f"installed: pip install 'eggroll-jax[{extra}]'."
        ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Print to nowhere, also where a library restores `sys.__stdout__`, as JaxMARL."""
    original = sys.__stdout__
    with contextlib.redirect_stdout(io.StringIO()) as nowhere:
        sys.__stdout__ = nowhere  # pyrefly: ignore[bad-assignment]
        try:
            yield
        finally:
            sys.__stdout__ = original  # pyrefly: ignore[bad-assignment]


def flatten(observation: Any) -> Float[Array, " size"]:
    """Join the leaves of a structured observation into one vector."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(observation)]
    return jnp.concatenate([leaf.astype(jnp.float32) for leaf in leaves])


def check_name(name: str, names: Collection[str], *, library: str) -> None:
    """Refuse a name that the library does not know, and suggest the nearest ones."""
    if name not in names:
        raise UserError(
            f"{library} has no environment {name!r}.{did_you_mean(name, names)}"
        )


def check_options(
    options: Mapping[str, Any], known: Collection[str], *, environment: str
) -> None:
    """Refuse options that an environment does not have."""
    for option in options:
        field = option.partition(":")[0]
        if field != option and field in known:
            raise UserError(
                f"{environment} has no option {option!r}: a space is missing after the "
                f"colon, as in '{field}: {option.partition(':')[2] or 'VALUE'}'."
            )
        if option not in known:
            raise UserError(
                f"{environment} has no option {option!r}.{did_you_mean(option, known)}"
            )


def did_you_mean(name: str, names: Collection[str]) -> str:
    """The names nearest to one that is not among them, as a sentence of a message."""
    folded = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.4)
    found = ", ".join(repr(folded[match]) for match in near)
    if not found:
        return f" It has: {', '.join(sorted(folded.values()))}."
    return f" Did you mean {found}?"

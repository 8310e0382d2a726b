"""Environments that do not run in JAX: Gymnasium's, stepped on the host.

At every step of the environments, all members of the population are asked for their
actions at once; their noise is drawn again each time, and never kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eggroll.config import Config, Natural
from eggroll.runs import Frame
from eggroll.training import (
    Algorithm,
    Evaluated,
    Metrics,
    Parts,
    State,
    evolution,
    parts,
)
from tasks.control.film import Film
from tasks.control.host_data import Carry, HostData
from tasks.control.host_environment import HostEnvironment, describe
from tasks.control.host_ppo import algorithm as ppo_algorithm
from tasks.control.normalisation import Moments, merge, moments, no_moments
from tasks.control.pool import Playable, Played, Pool, play
from tasks.control.task import Control


# (data, carry) -> (carry, aux), a row a member; aux has `action` and `seed`.
Act = Callable[[HostData, Carry], tuple[Carry, dict[str, Any]]]


def low_rank(task: "HostControl", config: Config) -> Algorithm:
    """Evolution with low-rank perturbations."""
    return _evolution(task, config, rank=config.strategy.rank)


def full_rank(task: "HostControl", config: Config) -> Algorithm:
    """Evolution with full-rank perturbations (OpenAI-ES)."""
    return _evolution(task, config, rank=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostControl(Control):
    """Maximise the return of episodes of a Gymnasium environment, run on the host.

    Fitness is the mean undiscounted return of a member's episodes, in the
    environment's own unit of reward; its best value and that of a random policy
    are the environment's too (CartPole-v1: best 500, random about 22).
    What makes a member's fitness void is as with `Control`.

    Settings are those of `Control`, for single agents, and:

    Attributes:
        environment: as Gymnasium knows it, such as `Hopper-v5`, or `module:Name-v0`,
            which imports a module that registers environments first.
        environment_options: passed on to `gymnasium.make`.
        processes: workers that step the environments; 0 steps them in this one. What
            comes out does not depend on it.
    """

    environment: str = "CartPole-v1"
    processes: Natural = 2

    algorithms = MappingProxyType(
        {"eggroll": low_rank, "openes": full_rank, "ppo": ppo_algorithm}
    )
    data_axes: ClassVar[Any] = HostData(*cast(Any, (*[None] * 4, 0, 0, 0)))

    def __post_init__(self):
        super().__post_init__()

    @functools.cached_property
    def env(
        self,
    ) -> HostEnvironment:
        """What is to be known of the environment."""
        return describe(self.environment, self.environment_options, self.max_steps)

    @property
    def reference(
        self,
    ) -> Mapping[str, float]:
        threshold = self.env.threshold
        return {} if threshold is None else {"solved": threshold}

    def initial_carry(self, population: int) -> Carry:
        return self._carry(population, self.episodes)

    def batch(self, state: Moments, step: int, key: PRNGKeyArray) -> HostData:
        """What is known before the episodes begin."""
        return self._data(state, key, self.step_limit_at(step), self.episodes)

    def evaluate(
        self, params: PyTree, data: HostData, carry: Carry, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Carry, dict[str, Any]]:
        """Choose one action in each episode; what it leads to is found out outside."""
        if self.seeds == "population":
            key = data.key
        elif self.seeds == "member":
            key = jax.random.fold_in(key, carry.number)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            key, jnp.arange(data.alive.shape[0])
        )
        # As in `rollout`: time 0 belongs to the reset.
        at = lambda time: jax.vmap(jax.random.fold_in, (0, None))(keys, time)
        act = functools.partial(self._act, params, data.observed)
        action, memory = jax.vmap(act)(
            data.observation, carry.memory, at(data.time + 1), data.legal
        )
        observed = carry.observed
        if self.normalise_observations:
            observed = merge(observed, moments(data.observation, data.alive))
        seed = jax.vmap(jax.random.bits)(at(0))
        aux = {"action": action, "seed": seed, "observed": observed}
        return jnp.float32(jnp.nan), Carry(carry.number, memory, observed), aux

    def play(
        self,
        act: Act,
        data: HostData,
        carry: Carry,
        members: int,
        pool: Playable | None = None,
    ) -> tuple[Played, PyTree]:
        """Run the episodes of some members until the last of them has ended.

        Args:
            act: chooses the actions of all members.
            data: from `batch`.
            carry: of all members.
            members: how many.
            pool: where they act, if that is not the task's own.

        Returns:
            What became of the episodes, and moments of what each member has seen, if
            they are wanted.
        """
        wide = lambda x: np.broadcast_to(x, (members, *x.shape[1:]))
        by_member = data.observation, data.alive, data.legal
        seen, alive, legal = jax.tree.map(wide, by_member)
        data = data._replace(observation=seen, alive=alive, legal=legal)
        seeds = np.asarray(act(data, carry)[1]["seed"])

        def choose(observation: Any, alive: Any, time: Any, legal: Any) -> np.ndarray:
            nonlocal carry
            when: dict[str, Any] = {"time": np.int32(time), "legal": legal}
            now = data._replace(observation=observation, alive=alive, **when)
            carry, aux = act(now, carry)
            return self.env.to_native(np.asarray(aux["action"]))

        pool = pool or self._pool(seeds.size)
        return play(pool, choose, seeds, int(data.step_limit)), carry.observed

    def render(
        self,
        params: PyTree,
        state: Moments,
        key: PRNGKeyArray,
        steps: int | None = None,
    ) -> list[Frame]:
        """Watch an episode of the unperturbed policy, of `steps` steps at most.

        Raises:
            UserError: the environment cannot be drawn.
        """
        film = Film(self.environment, self.environment_options, self.env.masked)
        limit = min(steps or self.env.step_limit, self.max_steps or self.env.step_limit)
        self._play_alone(params, state, key, 1, limit, film)
        return film.frames

    def close(self) -> None:
        """End the worker processes. It happens by itself when the task is gone."""
        if pool := vars(self).pop("pool", None):
            pool.close()

    def _pool(self, size: int) -> Pool:
        """At least so many environments; the same ones each time, where possible."""
        if "pool" not in vars(self) or vars(self)["pool"].size < size:
            self.close()
            vars(self)["pool"] = Pool(
                self.environment,
                self.environment_options,
                size,
                self.processes,
                self.env.masked,
            )
        return vars(self)["pool"]

    @functools.cached_property
    def _validation(self) -> Callable[[PyTree, Moments, PRNGKeyArray], Played]:
        limit = self.max_steps or self.env.step_limit
        return lambda params, observed, key: self._play_alone(
            params, observed, key, self.evaluation_episodes, limit
        )

    @functools.cached_property
    def _acting(self) -> Callable[..., tuple[Array, Carry, dict[str, Any]]]:
        return jax.jit(jax.vmap(self.evaluate, (None, self.data_axes, 0, None)))

    def _play_alone(
        self,
        params: PyTree,
        observed: Moments,
        key: PRNGKeyArray,
        episodes: int,
        limit: int,
        pool: Playable | None = None,
    ) -> Played:
        """Run episodes of one policy."""
        act = lambda data, carry: self._acting(params, data, carry, key)[1:]
        data = self._data(observed, key, jnp.int32(limit), episodes)
        return self.play(act, data, self._carry(1, episodes), 1, pool)[0]

    def _carry(self, members: int, episodes: int) -> Carry:
        spread = lambda x: jnp.broadcast_to(x, (members, episodes, *jnp.shape(x)))
        none = no_moments(self.env.observation_shape)
        observed = jax.tree.map(lambda x: jnp.stack([x] * members), none)
        return Carry(
            number=jnp.arange(members) if self.seeds == "member" else (),
            memory=jax.tree.map(spread, self.policy.memory),
            observed=observed if self.normalise_observations else (),
        )

    def _data(
        self, observed: Moments, key: PRNGKeyArray, limit: Int[Array, ""], episodes: int
    ) -> HostData:
        shape = (1, episodes)
        observation = jnp.zeros((*shape, *self.env.observation_shape))
        alive, actions = jnp.ones(shape, bool), sum(self.env.masked)
        legal = jnp.ones((*shape, actions), bool) if actions else None
        return HostData(observed, key, limit, jnp.int32(0), observation, alive, legal)


def _evolution(task: HostControl, config: Config, *, rank: int | None) -> Algorithm:
    init, ask, learn, strategy = evolution(task, config, rank=rank)
    members = config.strategy.population
    usual = parts.in_jax(task, config, ask, learn)
    asked, learn = jax.jit(ask), jax.jit(learn)

    def evaluate(state: State, data: HostData) -> Evaluated:
        generations = []

        def act(data: HostData, carry: Carry) -> tuple[Carry, dict[str, Any]]:
            results, generation = asked(state._replace(carry=carry), data)
            generations[:] = [generation]
            return results[1:]

        played, observed = task.play(act, data, state.carry, members)
        fitness = played.returns.mean(axis=1).astype(np.float32)
        aux = _told(played.lengths, observed)
        return Evaluated(generations[0], fitness, state.carry, aux)

    def learnt(state: State, found: Evaluated) -> tuple[State, Metrics]:
        return learn(state, *found[:4])

    def blank(state: State) -> Evaluated:
        aux = _told(np.zeros((members, task.episodes), np.int64), state.carry.observed)
        generation, fitness = usual.blank(state).generation, np.zeros(members)
        return Evaluated(generation, fitness.astype(np.float32), state.carry, aux)

    made = Parts(evaluate, learnt, blank, carries=lambda: False, trial=ask)
    return Algorithm(init, made.step, members, ask, None, strategy, made)


def _told(
    lengths: Int[np.ndarray, "members episodes"], observed: PyTree
) -> dict[str, Any]:
    """What the episodes of all members tell beside their returns.

    Actions are computed for all episodes until the last of them has ended.
    """
    mean = lengths.mean(axis=1).astype(np.float32)
    utilisation = mean / max(lengths.max(), 1)
    return {
        "steps": lengths.sum(axis=1),
        "metrics": {"episode_length": mean, "utilisation": utilisation},
        "observed": observed,
    }

"""Proximal policy optimisation of environments that are stepped on the host.

What is learnt, and how, is as in JAX; here is how the experience is made. Gymnasium's
environments cannot be written into a checkpoint, but an episode follows from its seed
and its actions. So these are what is kept of the episodes under way, and who has lost
sight of them, as after a stop, lives through them again.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped, UInt32

from eggroll.config import Config
from eggroll.evolution import compilers
from eggroll.training import Algorithm, Metrics, State
from tasks.control.host_environment import HostEnvironment
from tasks.control.normalisation import Moments
from tasks.control.pool import Pool, Seen
from tasks.control.ppo_learner import Kept, Learner, Learnt, PolicyTask
from tasks.control.spaces import Box, MultiDiscrete, Space
from tasks.control.trajectories import Step, ends


class OnHost(PolicyTask, Protocol):
    """A task whose environment is Gymnasium's."""

    @property
    def env(self) -> HostEnvironment: ...
    @property
    def environment(self) -> str: ...
    @property
    def environment_options(self) -> Mapping[str, Any]: ...
    @property
    def max_steps(self) -> int | None: ...
    @property
    def processes(self) -> int: ...


class Shown(NamedTuple):
    """What the workers choose by; `legal` is None if they may do anything."""

    observation: Float[Any, "workers ..."]
    legal: Bool[Any, "workers actions"] | None


class Histories(NamedTuple):
    """Episodes under way, one row each, and all it takes to live through them again.

    Attributes:
        seed: of each.
        time: steps since the reset.
        total: rewards since the reset.
        actions: since the reset, as the action space has them; then zeros.
    """

    seed: UInt32[Any, " workers"]
    time: Int[Any, " workers"]
    total: Float[Any, " workers"]
    actions: Shaped[Any, "workers limit ..."]


def algorithm(task: OnHost, config: Config) -> Algorithm:
    """Return PPO on the environment of a `HostControl` task.

    Raises:
        UserError: if the task has a recurrent network.
    """
    made = _Updates(task, config)
    return Algorithm(made.init, made.step, 1, trial=made.trial)


class _Updates:
    """The functions that `algorithm` consists of, and what they share."""

    def __init__(self, task: OnHost, config: Config):
        self.task, self.learner, self.crew = task, Learner(task, config), _Crew(task)
        self.steps, self.workers = task.ppo.steps, task.ppo.workers
        drawn, choose, learn = self._drawn, self._choose, self._learn
        self.draws, self.chooses, self.learns = map(
            compilers.jit, (drawn, choose, learn)
        )

    def init(self, params: PyTree) -> Kept:
        return self.learner.init(params, self._begin)

    def step(self, state: State, data: Any) -> tuple[State, Metrics]:
        del data
        collect_key, learn_key = self.learner.keys(state)
        keys, seeds = self.draws(collect_key)
        given = self.learner.learnt(state), state.task
        act = lambda shown, time: self.chooses(*given, shown, keys, time)
        limit = int(self.task.step_limit_at(state.step))
        episodes = jax.device_get(state.opt_state.workers)
        episodes, steps = self.crew.collect(act, episodes, np.asarray(seeds), limit)
        new, metrics = self.learns(_with(state, ()), steps, learn_key)
        return _with(new, jax.tree.map(jnp.asarray, episodes)), metrics

    def trial(self, state: State, data: Any) -> tuple[State, Metrics]:
        """As `step`, but for what comes of the actions."""
        del data
        learner, env, shape = self.learner, self.task.env, (self.steps, self.workers)
        collect_key, learn_key = learner.keys(state)
        flags = jnp.ones((self.workers, sum(env.masked)), bool) if env.masked else None
        shown = Shown(jnp.zeros((self.workers, *env.observation_shape)), flags)
        keys, _ = self._drawn(collect_key)
        raw, _, notes = self._choose(
            learner.learnt(state), state.task, shown, keys, jnp.int32(0)
        )
        wide = lambda x: jnp.broadcast_to(x, (self.steps, *x.shape))
        shown, raw, notes = jax.tree.map(wide, (shown, raw, notes))
        zeros, never = jnp.zeros(shape), jnp.zeros(shape, bool)
        ends: Any = zeros, shown.observation, never, never, zeros, never
        met = Step(shown.observation, shown.legal, raw, notes, *ends)
        return self._learn(state, met, learn_key)

    def _begin(self, key: PRNGKeyArray) -> Histories:
        env = self.task.env
        seed = jax.vmap(jax.random.bits)(jax.random.split(key, self.workers))
        limit = min(self.task.max_steps or env.step_limit, env.step_limit)
        nothing = _nothing(env.action_space, (self.workers, limit))
        zeros = jnp.zeros(self.workers)
        return Histories(seed, zeros.astype(jnp.int32), zeros, nothing)

    def _drawn(self, key: PRNGKeyArray) -> tuple[PRNGKeyArray, Array]:
        """Keys of all choices, and seeds of all episodes that may begin.

        As in `trajectories.collect`.
        """
        split = lambda number: jax.vmap(lambda key: jax.random.split(key, number))
        by_worker = split(self.workers)(jax.random.split(key, self.steps))
        keys = jax.vmap(split(3))(by_worker)
        return keys[..., 0], jax.vmap(jax.vmap(jax.random.bits))(keys[..., 2])

    def _choose(
        self,
        learnt: Learnt,
        seen: Moments,
        shown: Shown,
        keys: PRNGKeyArray,
        time: Int[Any, ""],
    ) -> tuple[Array, Array, PyTree]:
        one = lambda x, key, legal: self.learner.choose(learnt, seen, x, key, legal)
        return jax.vmap(one)(shown.observation, keys[time], shown.legal)

    def _learn(
        self, state: State, steps: Step, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        return self.learner.step(state, (), steps, key)


class _Crew:
    """The workers' environments, and where they were left."""

    def __init__(self, task: OnHost):
        self._task = task
        self._left: Histories | None = None
        self._seen: Seen | None = None  # there

    @functools.cached_property
    def _pool(self) -> Pool:
        task = self._task
        size = task.ppo.workers
        how = size, task.processes, task.env.masked
        return Pool(task.environment, task.environment_options, *how)

    def collect(
        self,
        act: Any,
        episodes: Histories,
        seeds: UInt32[np.ndarray, "..."],
        limit: int,
    ) -> tuple[Histories, Step]:
        """Take a step with every worker for each row of `seeds`.

        Args:
            act: `(shown, time) -> (raw actions, actions, notes)`.
            episodes: that are under way.
            seeds: of the episodes that begin where others end, by time and worker.
            limit: steps after which an episode is truncated.

        Returns:
            The episodes then under way, and all steps, as `trajectories.collect` does.
        """
        seen = self._look(episodes)
        self._left = None  # whatever happens on the way
        seed, time, total, actions = map(np.array, episodes)
        rows, made = np.arange(len(seed)), []
        for number, fresh in enumerate(seeds):
            acts, shown = seen.can_act, Shown(_or_zeros(seen.observation), seen.legal)
            raw, action, notes = jax.device_get(act(shown, number))
            actions[rows, time] = action
            after = _copied(self._pool.step(self._task.env.to_native(action), acts))
            reward = after.reward.astype(np.float32)
            time, total = time + 1, total + reward
            terminated, truncated, void = ends(
                acts,
                np.isfinite(reward),
                ~_is_finite(after.observation),
                after.terminated,
                after.truncated | (time >= limit),
            )
            ended = terminated | truncated | void
            told = np.where(ended & ~void, total, np.nan).astype(np.float32)
            how: Any = (after.observation, terminated, truncated, told, void)
            made.append(Step(*shown, raw, notes, cast(Any, reward), *how))
            seed, time = np.where(ended, fresh, seed), np.where(ended, 0, time)
            total = np.where(ended, 0, total).astype(np.float32)
            actions[ended] = 0
            seen = _copied(self._pool.reset(seed, ended)) if ended.any() else after
        steps = jax.tree.map(lambda *x: np.stack(x), *made)
        self._left, self._seen = Histories(seed, time, total, actions), seen
        return self._left, steps

    def _look(self, episodes: Histories) -> Seen:
        """What is seen of some episodes, which are lived through again if need be."""
        if self._left is not None and self._seen is not None:
            same = map(np.array_equal, self._left, episodes)
            if all(same):
                return self._seen
        seen = self._pool.reset(episodes.seed)
        for time in range(episodes.time.max()):
            action = self._task.env.to_native(episodes.actions[:, time])
            seen = self._pool.step(action, time < episodes.time)
        return _copied(seen)


def _with(state: State, episodes: Any) -> State:
    return state._replace(opt_state=state.opt_state._replace(workers=episodes))


def _nothing(space: Space, shape: tuple[int, ...]) -> Array:
    """Actions that are zero."""
    if isinstance(space, Box):
        return jnp.zeros((*shape, space.size))
    each = (len(space.sizes),) if isinstance(space, MultiDiscrete) else ()
    return jnp.zeros((*shape, *each), jnp.int32)


def _copied(seen: Seen) -> Seen:
    """What is seen, which the next step would change."""
    copy = seen.each(np.array)
    return copy._replace(observation=copy.observation.astype(np.float32))


def _is_finite(x: Float[np.ndarray, "workers ..."]) -> Bool[np.ndarray, " workers"]:
    return np.asarray(np.isfinite(x).reshape(len(x), -1).all(axis=1))


def _or_zeros(x: Float[np.ndarray, "workers ..."]) -> Float[np.ndarray, "workers ..."]:
    """The rows of finite numbers alone are left as they are."""
    flags = _is_finite(x).reshape(-1, *[1] * (x.ndim - 1))
    return np.where(flags, x, np.float32(0))

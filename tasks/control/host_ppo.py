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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt32

from eggroll.config import Config
from eggroll.evolution import compilers
from eggroll.training import Algorithm, Metrics, State
from tasks.control.host_environment import HostEnvironment
from tasks.control.normalisation import Moments
from tasks.control.pool import Pool
from tasks.control.ppo_learner import Learner, Learnt, PolicyTask
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
    learner, crew = Learner(task, config), _Crew(task)
    number, workers = task.ppo.steps, task.ppo.workers

    def begin(key: PRNGKeyArray) -> Histories:
        seed = jax.vmap(jax.random.bits)(jax.random.split(key, workers))
        limit = min(task.max_steps or task.env.step_limit, task.env.step_limit)
        nothing = _nothing(task.env.action_space, (workers, limit))
        zeros = jnp.zeros(workers)
        return Histories(seed, zeros.astype(jnp.int32), zeros, nothing)

    def drawn(key: PRNGKeyArray) -> tuple[PRNGKeyArray, Array]:
        """Keys of all choices, and seeds of all episodes that may begin.

        As in `trajectories.collect`.
        """
        split = lambda number: jax.vmap(lambda key: jax.random.split(key, number))
        keys = jax.vmap(split(3))(split(workers)(jax.random.split(key, number)))
        return keys[..., 0], jax.vmap(jax.vmap(jax.random.bits))(keys[..., 2])

    def choose(learnt: Learnt, seen: Moments, observation: Array, keys, time) -> tuple:
        one = lambda x, key: learner.choose(learnt, seen, x, key, None)
        return jax.vmap(one)(observation, keys[time])

    def learn(state: State, steps: Step, key: PRNGKeyArray) -> tuple[State, Metrics]:
        return learner.step(state, (), steps, key)

    draws, chooses, learns = map(compilers.jit, (drawn, choose, learn))

    def step(state: State, data: Any) -> tuple[State, Metrics]:
        del data
        collect_key, learn_key = learner.keys(state)
        keys, seeds = draws(collect_key)
        learnt = learner.learnt(state)
        act = lambda x, time: chooses(learnt, state.task, x, keys, time)
        limit = int(task.step_limit_at(state.step))
        episodes = jax.device_get(state.opt_state.workers)
        episodes, steps = crew.collect(act, episodes, np.asarray(seeds), limit)
        new, metrics = learns(_with(state, ()), steps, learn_key)
        return _with(new, jax.tree.map(jnp.asarray, episodes)), metrics

    def trial(state: State, data: Any) -> tuple[State, Metrics]:
        del data
        collect_key, learn_key = learner.keys(state)
        seen = jnp.zeros((workers, *task.env.observation_shape))
        keys, _ = drawn(collect_key)
        raw, _, notes = choose(learner.learnt(state), state.task, seen, keys, 0)
        wide = lambda x: jnp.broadcast_to(x, (number, *x.shape))
        zeros, never = jnp.zeros((number, workers)), jnp.zeros((number, workers), bool)
        seen, raw, notes = jax.tree.map(wide, (seen, raw, notes))
        told = (seen, None, raw, notes, zeros, seen, never, never, zeros, never)
        return learn(state, Step(*told), learn_key)

    init = lambda params: learner.init(params, begin)
    return Algorithm(init, step, 1, trial=trial)


class _Crew:
    """The workers' environments, and where they were left."""

    def __init__(self, task: OnHost):
        self._task = task
        self._left: Histories | None = None
        self._seen = np.zeros(())  # there

    @functools.cached_property
    def _pool(self) -> Pool:
        task = self._task
        size = task.ppo.workers
        return Pool(task.environment, task.environment_options, size, task.processes)

    def collect(
        self,
        act: Any,
        episodes: Histories,
        seeds: UInt32[np.ndarray, "..."],
        limit: int,
    ) -> tuple[Histories, Step]:
        """Take a step with every worker for each row of `seeds`.

        Args:
            act: `(observations, time) -> (raw actions, actions, notes)`.
            episodes: that are under way.
            seeds: of the episodes that begin where others end, by time and worker.
            limit: steps after which an episode is truncated.

        Returns:
            The episodes then under way, and all steps, as `trajectories.collect` does.
        """
        seen = self._observe(episodes)
        self._left = None  # whatever happens on the way
        seed, time, total, actions = map(np.array, episodes)
        rows, made = np.arange(len(seed)), []
        for number, fresh in enumerate(seeds):
            is_seen = _is_finite(seen)
            shown = np.where(_beside(is_seen, seen), seen, 0).astype(np.float32)
            raw, action, notes = jax.device_get(act(shown, number))
            actions[rows, time] = action
            after = self._pool.step(self._task.env.to_native(action), is_seen)
            reward, following = after.reward.astype(np.float32), _copied(after)
            time, total = time + 1, total + reward
            terminated, truncated, void = ends(
                is_seen,
                np.isfinite(reward),
                ~_is_finite(following),
                after.terminated,
                after.truncated | (time >= limit),
            )
            ended = terminated | truncated | void
            told = np.where(ended & ~void, total, np.nan).astype(np.float32)
            how: Any = (reward, following, terminated, truncated, told, void)
            made.append(Step(cast(Any, shown), None, raw, notes, *how))
            seed, time = np.where(ended, fresh, seed), np.where(ended, 0, time)
            total = np.where(ended, 0, total).astype(np.float32)
            actions[ended] = 0
            seen = following
            if ended.any():
                seen = self._pool.reset(seed, ended).astype(np.float32)
        steps = jax.tree.map(lambda *x: np.stack(x), *made)
        self._left, self._seen = Histories(seed, time, total, actions), seen
        return self._left, steps

    def _observe(self, episodes: Histories) -> Float[np.ndarray, "workers ..."]:
        """What is seen of some episodes, which are lived through again if need be."""
        if self._left is not None:
            same = map(np.array_equal, self._left, episodes)
            if all(same):
                return self._seen
        seen = self._pool.reset(episodes.seed).astype(np.float32)
        for time in range(episodes.time.max()):
            goes_on = time < episodes.time
            action = self._task.env.to_native(episodes.actions[:, time])
            seen = _copied(self._pool.step(action, goes_on))
        return seen


def _with(state: State, episodes: Any) -> State:
    return state._replace(opt_state=state.opt_state._replace(workers=episodes))


def _nothing(space: Space, shape: tuple[int, ...]) -> Array:
    """Actions that are zero."""
    if isinstance(space, Box):
        return jnp.zeros((*shape, space.size))
    each = (len(space.sizes),) if isinstance(space, MultiDiscrete) else ()
    return jnp.zeros((*shape, *each), jnp.int32)


def _copied(seen: Any) -> Float[np.ndarray, "workers ..."]:
    """What is observed; the next step changes the original."""
    return np.array(seen.observation, np.float32)


def _is_finite(x: Float[np.ndarray, "workers ..."]) -> Bool[np.ndarray, " workers"]:
    return np.asarray(np.isfinite(x).reshape(len(x), -1).all(axis=1))


def _beside(flags: Bool[np.ndarray, " workers"], x: np.ndarray) -> np.ndarray:
    return flags.reshape(-1, *[1] * (x.ndim - 1))

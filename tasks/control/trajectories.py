"""Trajectories: what a policy meets as it steps many environments on and on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tasks.control.environment import Environment


class Workers(NamedTuple):
    """Environments under way, one row each.

    Attributes:
        state: their states.
        observation: what is observed now.
        time: steps since the reset.
        total: rewards since the reset.
    """

    state: PyTree
    observation: Float[Array, "workers ..."]
    time: Int[Array, " workers"]
    total: Float[Array, " workers"]


class Step(NamedTuple):
    """One step of one worker, or of many along leading axes.

    Attributes:
        observation: what was acted on.
        legal: which actions might have been taken; None: all.
        action: the raw action.
        notes: what the policy wants to remember of it.
        reward: of the step.
        following: what is observed after the step, before any reset.
        terminated: whether the episode ended by itself.
        truncated: whether the step limit ended it.
        total: the episode's return, where it ended; NaN elsewhere.
    """

    observation: Float[Array, "..."]
    legal: Bool[Array, "..."] | None
    action: Array
    notes: PyTree
    reward: Float[Array, "..."]
    following: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]
    total: Float[Array, "..."]


# (observation, key, legal) -> (raw action, environment's action, notes); for a worker.
Choose = Callable[[Array, PRNGKeyArray, Array | None], tuple[Array, Array, PyTree]]


def start(environment: Environment, key: PRNGKeyArray, workers: int) -> Workers:
    """Reset `workers` environments."""
    state, observation = jax.vmap(environment.reset)(jax.random.split(key, workers))
    return Workers(state, observation, jnp.zeros(workers, int), jnp.zeros(workers))


def collect(
    environment: Environment,
    choose: Choose,
    workers: Workers,
    key: PRNGKeyArray,
    *,
    steps: int,
    step_limit: int,
) -> tuple[Workers, Step]:
    """Take `steps` steps with every worker; an ended episode is begun anew.

    Returns:
        The workers, and all steps, with axes of time and workers.
    """

    def one(worker: Workers, key: PRNGKeyArray) -> tuple[Workers, Step]:
        choose_key, step_key, reset_key = jax.random.split(key, 3)
        legal = environment.legal(worker.state)
        raw, action, notes = choose(worker.observation, choose_key, legal)
        state, following, reward, terminated = environment.step(
            worker.state, action, step_key
        )
        time, total = worker.time + 1, worker.total + reward
        truncated = (time >= step_limit) & ~terminated
        ended = terminated | truncated
        fresh = environment.reset(reset_key)
        pick = lambda new, old: jnp.where(ended, _like(new, old), old)
        step = Step(
            worker.observation,
            legal,
            raw,
            notes,
            reward,
            following,
            terminated,
            truncated,
            jnp.where(ended, total, jnp.nan),
        )
        state, observation = jax.tree.map(pick, fresh, (state, following))
        zero = lambda x: jnp.where(ended, 0, x)
        return Workers(state, observation, zero(time), zero(total)), step

    def every(workers: Workers, key: PRNGKeyArray) -> tuple[Workers, Step]:
        after, step = jax.vmap(one)(workers, jax.random.split(key, workers.time.size))
        # Libraries are careless with dtypes: those of the start are kept.
        return jax.tree.map(_like, after, workers), step

    return jax.lax.scan(every, workers, jax.random.split(key, steps))


def _like(new: Array, old: Array) -> Array:
    new, old = jnp.asarray(new), jnp.asarray(old)
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def advantages(
    steps: Step,
    values: Float[Array, "time workers"],
    following: Float[Array, "time workers"],
    *,
    discount: float,
    trace: float,
) -> Float[Array, "time workers"]:
    r"""Generalised advantage estimation.

    $A_t = \delta_t + \gamma \lambda (1 - e_t) A_{t+1}$ with
    $\delta_t = r_t + \gamma (1 - d_t) V(s_{t+1}) - V(s_t)$, where $d_t$ says that the
    episode terminated and $e_t$ that it ended in either way: a truncated episode would
    have gone on, so the value of what followed counts.

    References:
        Schulman et al., "High-Dimensional Continuous Control Using Generalized
        Advantage Estimation" (2016), eq. 16, https://arxiv.org/abs/1506.02438.
    """
    errors = steps.reward + discount * (1 - steps.terminated) * following - values
    goes_on = discount * trace * ~(steps.terminated | steps.truncated)

    def back(advantage: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        error, factor = row
        advantage = error + factor * advantage
        return advantage, advantage

    last: Any = jnp.zeros_like(values[0])
    _, result = jax.lax.scan(back, last, (errors, goes_on), reverse=True)
    return result

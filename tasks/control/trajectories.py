"""Trajectories: what a policy meets as it steps many environments on and on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tasks.control.environment import Environment
from tasks.control.rollout import has_choice


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
        void: whether the episode ended since something was not finite, as in `rollout`;
            then there is nothing to be learnt from this step.
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
    void: Bool[Array, "..."]


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
    step_limit: int | Int[Array, ""],
) -> tuple[Workers, Step]:
    """Take `steps` steps with every worker; an ended episode is begun anew.

    `choose` sees zeros where an observation is not finite.

    Returns:
        The workers, and all steps, with axes of time and workers.
    """

    def one(worker: Workers, key: PRNGKeyArray) -> tuple[Workers, Step]:
        choose_key, step_key, reset_key = jax.random.split(key, 3)
        legal = environment.legal(worker.state)
        is_seen = _is_finite(worker.observation)
        seen = jnp.where(is_seen, worker.observation, 0)
        raw, action, notes = choose(seen, choose_key, legal)
        state, following, reward, terminated = environment.step(
            worker.state, action, step_key
        )
        time = worker.time + 1
        if legal is not None:
            can_act = has_choice(environment.action_space, legal)
            reward = jnp.where(can_act, reward, jnp.nan)
        sound, blind = jnp.isfinite(reward), ~_is_finite(following)
        terminated, truncated, void = ends(
            is_seen, sound, blind, terminated, time >= step_limit
        )
        ended, total = terminated | truncated | void, worker.total + reward
        fresh = environment.reset(reset_key)
        pick = lambda new, old: jnp.where(ended, _like(new, old), old)
        step = Step(
            seen,
            legal,
            raw,
            notes,
            reward,
            following,
            terminated,
            truncated,
            jnp.where(ended & ~void, total, jnp.nan),
            void,
        )
        state, observation = jax.tree.map(pick, fresh, (state, following))
        zero = lambda x: jnp.where(ended, 0, x)
        return Workers(state, observation, zero(time), zero(total)), step

    def every(workers: Workers, key: PRNGKeyArray) -> tuple[Workers, Step]:
        after, step = jax.vmap(one)(workers, jax.random.split(key, workers.time.size))
        # Libraries are careless with dtypes: those of the start are kept.
        return jax.tree.map(_like, after, workers), step

    return jax.lax.scan(every, workers, jax.random.split(key, steps))


def ends(
    is_seen: Bool[Any, "..."],
    is_sound: Bool[Any, "..."],
    is_blind: Bool[Any, "..."],
    terminated: Bool[Any, "..."],
    is_late: Bool[Any, "..."],
) -> tuple[Bool[Any, "..."], Bool[Any, "..."], Bool[Any, "..."]]:
    """Whether an episode terminated, was truncated, or is void.

    Args:
        is_seen: whether what was acted on is finite.
        is_sound: whether the reward is.
        is_blind: whether what followed is not.
        terminated: whether the environment says that the episode is over.
        is_late: whether a limit of time ends it.

    Returns:
        At most one of them is true. Arrays of JAX, or of NumPy where these were given.
    """
    over = terminated | is_late
    void = ~is_seen | ~is_sound | (is_blind & ~over)
    # Where nothing is seen of what a truncated episode would have gone on with, no
    # value can be given to it.
    terminated = (terminated | (is_blind & over)) & ~void
    return terminated, over & ~terminated & ~void, void


def _is_finite(x: Array) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(x))


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
    episode terminated and $e_t$ that it ended in any way: a truncated episode would
    have gone on, so the value of what followed counts. What was observed at a
    termination counts for nothing, be it a number or not. The advantage of a void step
    is 0, and $e_t$ true of it.

    References:
        Schulman et al., "High-Dimensional Continuous Control Using Generalized
        Advantage Estimation" (2016), eq. 16, https://arxiv.org/abs/1506.02438.
    """
    ahead = jnp.where(steps.terminated, 0, following)
    errors = steps.reward + discount * ahead - values
    errors = jnp.where(steps.void, 0, errors)
    ended = steps.terminated | steps.truncated | steps.void
    goes_on = discount * trace * ~ended

    def back(advantage: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        error, factor = row
        advantage = error + factor * advantage
        return advantage, advantage

    last: Any = jnp.zeros_like(values[0])
    _, result = jax.lax.scan(back, last, (errors, goes_on), reverse=True)
    return result

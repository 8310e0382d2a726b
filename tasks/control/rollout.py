"""Episodes of one policy, side by side, until the last of them has ended."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tasks.control.environment import Environment
from tasks.control.normalisation import Moments, merge, moments, no_moments
from tasks.control.spaces import MultiDiscrete, Space


# (observation, memory, key, legal) -> (action, memory); for one episode.
Policy = Callable[[Array, Any, PRNGKeyArray, Array | None], tuple[Array, Any]]


class Episodes(NamedTuple):
    """What became of one policy's episodes.

    Attributes:
        returns: undiscounted sums of rewards; NaN of a void episode.
        lengths: steps taken.
        terminated: whether the episode ended by itself; if not, the step limit
            truncated it.
        observed: moments of all observations that were acted on; of none unless
            they were asked for.
        computed: steps that were computed, of which those after an episode's end are
            thrown away. Under `vmap` it is one number for all.
        won: whether the episode ended by itself in a state that is won; None: the
            environment does not say.
    """

    returns: Float[Array, " episodes"]
    lengths: Int[Array, " episodes"]
    terminated: Bool[Array, " episodes"]
    observed: Moments
    computed: Int[Array, ""]
    won: Bool[Array, " episodes"] | None = None

    def after(
        self,
        reward: Float[Array, " episodes"],
        alive: Bool[Array, " episodes"],
        acts: Bool[Array, " episodes"],
        done: Bool[Array, " episodes"],
        won: Bool[Array, " episodes"] | None,
        observed: Moments,
    ) -> "Episodes":
        """What there is after another step: of those alive before it, some act."""
        gained = jnp.where(acts, reward, jnp.nan)
        return Episodes(
            returns=self.returns + jnp.where(alive, gained, 0),
            lengths=self.lengths + acts,
            terminated=self.terminated | (acts & done),
            observed=observed,
            computed=self.computed + 1,
            won=None
            if won is None or self.won is None
            else self.won | (acts & done & won),
        )

    @property
    def utilisation(self) -> Float[Array, ""]:
        """The share of the computed steps that belong to an episode under way."""
        return jnp.mean(self.lengths) / self.computed


class _Loop(NamedTuple):
    time: Int[Array, ""]
    alive: Bool[Array, " episodes"]
    state: PyTree
    observation: Float[Array, "episodes ..."]
    memory: PyTree
    episodes: Episodes


def rollout(
    environment: Environment,
    policy: Policy,
    key: PRNGKeyArray,
    *,
    episodes: int = 1,
    step_limit: int | Int[Array, ""] | None = None,
    memory: PyTree = (),
    observe: bool = False,
) -> Episodes:
    """Run `episodes` episodes and stop when all of them have ended.

    Under `vmap` (a chunk of members) it stops when all episodes of *all* members
    have ended. An ended episode is stepped on with the others, but counts no more.
    Randomness depends on `key`, the episode and the time step alone: episode e
    starts from `fold_in(key, e)`.

    An episode is void, and ends, where a reward or an observation to be acted on (not
    the last one) is not finite, or no action is legal.

    Args:
        environment: where to act.
        policy: `(observation, memory, key, legal) -> (action, memory)`.
        key: decides initial states and everything drawn later.
        episodes: how many.
        step_limit: steps after which an episode is truncated; may be traced. By
            default (and at most) the environment's own limit.
        memory: what the policy remembers at the start of each episode.
        observe: whether to gather the moments of the observations.
    """
    limit = environment.step_limit
    if step_limit is not None:
        limit = jnp.minimum(step_limit, limit)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(episodes))
    running = lambda loop: (loop.time < limit) & _any_of_all(loop.alive)
    step = transition(environment, policy)
    each = _for_each_episode(step, (0, 0, 0, 0, None), episodes)
    won = jax.vmap(environment.won, axis_size=episodes)  # a state may be empty

    def advance(loop: _Loop) -> _Loop:
        state, observation, action_memory, reward, done = each(
            loop.state, loop.observation, loop.memory, keys, loop.time + 1
        )
        acts = loop.alive & is_finite(loop.observation)
        observed = loop.episodes.observed
        if observe:
            observed = merge(observed, moments(loop.observation, acts))
        return _Loop(
            time=loop.time + 1,
            alive=acts & ~done & jnp.isfinite(reward),
            state=state,
            observation=observation,
            memory=action_memory,
            episodes=loop.episodes.after(
                reward, loop.alive, acts, done, won(state), observed
            ),
        )

    start = _start(environment, keys, memory)
    return jax.lax.while_loop(running, advance, _settle(advance, start)).episodes


def summary(episodes: Any) -> dict[str, float]:
    """What people want to know of finished episodes, the headline first.

    Episodes without a finite return are left out of the mean and counted. One
    episode has no standard error.

    Args:
        episodes: `Episodes`, or what has the same `returns`, `lengths` and
            `terminated` (and `won`, where one can), on the host.
    """
    finite = episodes.returns[np.isfinite(episodes.returns)]
    metrics = {
        "return": float(np.mean(finite)) if finite.size else float("nan"),
        "episode_length": float(np.mean(episodes.lengths)),
        "terminated": float(np.mean(episodes.terminated)),
    }
    if finite.size > 1:
        spread = np.std(finite, ddof=1)
        metrics["return_sem"] = float(spread / np.sqrt(finite.size))
    if (won := getattr(episodes, "won", None)) is not None:
        metrics["win_rate"] = float(np.mean(won))
    if broken := episodes.returns.size - finite.size:
        metrics["non_finite_episodes"] = float(broken)
    return metrics


def is_finite(observation: Float[Array, "rows ..."]) -> Bool[Array, " rows"]:
    """Whether all numbers of each row are finite, and so may be acted on."""
    return jnp.all(jnp.isfinite(observation), axis=range(1, observation.ndim))


def has_choice(space: Space, legal: Bool[Array, "..."]) -> Bool[Array, ""]:
    """Whether every agent may do something, in every one of its choices."""
    sizes = space.sizes if isinstance(space, MultiDiscrete) else (legal.shape[-1],)
    choices = jnp.split(legal, np.cumsum(sizes)[:-1], axis=-1)
    return jnp.all(jnp.stack([jnp.any(choice, axis=-1) for choice in choices]))


def transition(environment: Environment, policy: Policy) -> Callable:
    """Return one step of one episode, as a function of arrays."""

    def step(state, observation, memory, key, time):
        policy_key, step_key = jax.random.split(jax.random.fold_in(key, time))
        legal = environment.legal(state)
        action, memory = policy(observation, memory, policy_key, legal)
        state, observation, reward, done = environment.step(state, action, step_key)
        if legal is not None:
            can_act = has_choice(environment.action_space, legal)
            reward = jnp.where(can_act, reward, jnp.nan)
        return state, observation, memory, reward, done

    return step


def _for_each_episode(
    function: Callable, axes: tuple[int | None, ...], episodes: int
) -> Callable:
    """Like `jax.vmap`, but a single episode is no dimension of the computation.

    XLA's CPU backend takes up to three times as long over arrays (members, 1, features)
    as it does over (members, features).
    """
    if episodes > 1:
        return jax.vmap(function, axes)

    def alone(*arguments: Any) -> Any:
        drop = lambda tree: jax.tree.map(lambda x: jnp.squeeze(x, 0), tree)
        one = [
            x if a is None else drop(x) for x, a in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), function(*one))

    return alone


def _start(environment: Environment, keys: PRNGKeyArray, memory: PyTree) -> _Loop:
    # Time 0 belongs to the reset, so that no later step shares its key.
    reset_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
    state, observation = jax.vmap(environment.reset)(reset_keys)
    (episodes,) = keys.shape
    spread = lambda x: jnp.broadcast_to(x, (episodes, *jnp.shape(x)))
    return _Loop(
        time=jnp.int32(0),
        alive=jnp.ones(episodes, bool),
        state=state,
        observation=observation,
        memory=jax.tree.map(spread, memory),
        episodes=Episodes(
            returns=jnp.zeros(episodes),
            lengths=jnp.zeros(episodes, jnp.int32),
            terminated=jnp.zeros(episodes, bool),
            observed=no_moments(environment.observation_shape),
            computed=jnp.int32(0),
            won=_nobody(environment, state, episodes),
        ),
    )


def _nobody(
    environment: Environment, state: PyTree, episodes: int
) -> Bool[Array, " episodes"] | None:
    """That no episode is won, of an environment that says when one is."""
    won = jax.vmap(environment.won, axis_size=episodes)(state)
    return None if won is None else jnp.zeros_like(won)


def _settle(advance: Callable[[_Loop], _Loop], start: _Loop) -> _Loop:
    """Give the start the dtypes of what follows: libraries are careless with them."""
    after = jax.eval_shape(advance, start)
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), start, after)


@custom_vmap
def _any_of_all(alive: Bool[Array, "..."]) -> Bool[Array, ""]:
    """Whether any is true, over members too: under `vmap` all get one answer.

    A loop condition that differs between members would make JAX keep, by a `select`
    over the whole loop state at every step, the state of members that have ended.
    Here ended episodes are masked anyway, so one condition for all is enough.
    """
    return jnp.any(alive)


@_any_of_all.def_vmap
def _(axis_size, in_batched, alive):
    del axis_size, in_batched
    return _any_of_all(alive), False

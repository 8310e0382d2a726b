"""What proximal policy optimisation learns from experience, wherever it was made."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from eggroll import UserError
from eggroll.config import Config
from eggroll.training import (
    Metrics,
    Purpose,
    State,
    instantiate,
    key_for,
)
from tasks.control.action_head import ActionHead, Squash
from tasks.control.discounted import Returns, no_returns
from tasks.control.networks import Network
from tasks.control.normalisation import Moments, merge, moments, normalise
from tasks.control.ppo_settings import PPOSettings
from tasks.control.spaces import Box, Space
from tasks.control.trajectories import Step, advantages


class Known(Protocol):
    """What is read of an environment, wherever it runs."""

    @property
    def action_space(self) -> Space: ...
    @property
    def agents(self) -> int | None: ...


class PolicyTask(Protocol):
    """What is read of a task: all that `Control` says of policy and environment.

    `Control` offers this algorithm, and so cannot be named here.
    """

    @property
    def env(self) -> Known: ...
    @property
    def policy(self) -> Network: ...
    @property
    def deterministic(self) -> bool: ...
    @property
    def squash(self) -> Squash: ...
    @property
    def normalise_observations(self) -> bool: ...
    @property
    def ppo(self) -> PPOSettings: ...
    def step_limit_at(self, step: Int[Array, ""]) -> Int[Array, ""]: ...


class Learnt(NamedTuple):
    """What gradients flow to."""

    actor: PyTree
    critic: PyTree
    log_std: Float[Array, " size"] | None  # of continuous actions


class Kept(NamedTuple):
    """What PPO keeps between updates besides the actor, which is the run's `params`."""

    critic: PyTree
    log_std: Float[Array, " size"] | None
    opt_state: optax.OptState
    workers: PyTree  # whatever they need to go on
    returns: Returns


class Batch(NamedTuple):
    """Experience that is ready to be learnt from; `x` is what the networks read."""

    x: Float[Array, "batch ..."]
    legal: Array | None
    action: Array
    log_probability: Float[Array, " batch"]
    value: Float[Array, " batch"]
    advantage: Float[Array, " batch"]
    valid: Bool[Array, " batch"]  # else it is not learnt from

    def mean(self, x: Float[Array, " batch"]) -> Float[Array, ""]:
        """The mean of what is valid."""
        count = jnp.maximum(jnp.sum(self.valid), 1)
        return jnp.sum(jnp.where(self.valid, x, 0)) / count


class Learner:
    """How a task's policy acts, and what is learnt from what it met, as pure functions.

    Raises:
        UserError: if the task has a team of agents or a recurrent network.
    """

    def __init__(self, task: PolicyTask, config: Config):
        if task.env.agents is not None or jax.tree.leaves(task.policy.memory):
            raise UserError(
                "algorithm: 'ppo' serves single agents without memory; choose "
                "'eggroll' or 'openes' for teams and recurrent networks"
            )
        self.task, self.config, self.settings = task, config, task.ppo
        self.head = ActionHead(task.env.action_space, False, task.squash)
        self.critic = dataclasses.replace(task.policy, outputs=1, free=0)
        clip = optax.clip_by_global_norm(task.ppo.gradient_norm)
        self.optimizer = optax.chain(clip, instantiate.optimizer(config))

    def init(self, params: PyTree, begin: Callable[[PRNGKeyArray], PyTree]) -> Kept:
        """What is kept at first; `begin` makes the workers."""
        key = key_for(jax.random.key(self.config.seed), Purpose.INIT, 1)
        critic_key, worker_key = jax.random.split(key)
        space = self.task.env.action_space
        # A policy trained without chance puts out means alone: their spread is learnt.
        log_std = jnp.zeros(space.size) if isinstance(space, Box) else None
        log_std = log_std if self.task.deterministic else None
        learnt = Learnt(params, self.critic.init(critic_key), log_std)
        opt_state = self.optimizer.init(cast(Any, learnt))
        returns = no_returns(self.settings.workers)
        workers = begin(worker_key)
        return Kept(learnt.critic, learnt.log_std, opt_state, workers, returns)

    def keys(self, state: State) -> tuple[PRNGKeyArray, PRNGKeyArray]:
        """One to collect experience with, and one to learn with."""
        key = key_for(state.key, Purpose.NOISE, state.step)
        collect_key, learn_key = jax.random.split(key)
        return collect_key, learn_key

    def learnt(self, state: State) -> Learnt:
        return Learnt(state.params, state.opt_state.critic, state.opt_state.log_std)

    def step(
        self, state: State, workers: PyTree, steps: Step, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """The state after an update from experience, with axes of time and workers."""
        kept, settings, learnt = state.opt_state, self.settings, self.learnt(state)
        ended = steps.terminated | steps.truncated | steps.void
        reward = jnp.where(steps.void, 0, steps.reward)
        returns = kept.returns.after(reward, ended, settings.discount)
        unit = returns.scale if settings.normalise_rewards else 1.0
        batch = self._batch(learnt, state.task, steps._replace(reward=reward / unit))
        learnt, opt_state, losses = self._learn(
            learnt, kept.opt_state, batch, key, returns.scale / unit
        )
        metrics = {
            "fitness/mean": jnp.mean(steps.total, where=jnp.isfinite(steps.total)),
            "fitness/nonfinite": jnp.mean(steps.void, dtype=jnp.float32),
            "samples": jnp.float32(steps.reward.size),
        } | losses
        new = state.advanced(
            params=learnt.actor,
            opt_state=Kept(learnt.critic, learnt.log_std, opt_state, workers, returns),
            task=self._observe(state.task, steps),
        )
        return new, metrics

    def choose(
        self,
        learnt: Learnt,
        seen: Moments,
        observation: Array,
        key: PRNGKeyArray,
        legal,
    ) -> tuple[Array, Array, tuple[Array, Array]]:
        """Draw an action; note its log probability and the value of the state."""
        x = self._see(observation, seen)
        outputs = self._outputs(learnt, x)
        raw = self.head.sample(outputs, key, legal)
        log_probability = self.head.log_probability(outputs, raw, legal)
        return raw, self.head.action(raw), (log_probability, self._value(learnt, x))

    def _outputs(self, learnt: Learnt, x: Array) -> Array:
        outputs, _ = self.task.policy(learnt.actor, x, ())
        if learnt.log_std is None:
            return outputs
        return jnp.concatenate([outputs, learnt.log_std])

    def _value(self, learnt: Learnt, x: Array) -> Array:
        value, _ = self.critic(learnt.critic, x, ())
        return value[0]

    def _see(self, observation: Array, seen: Moments) -> Array:
        if not self.task.normalise_observations:
            return observation
        return normalise(observation, seen)

    def _observe(self, seen: Moments, steps: Step) -> Moments:
        if not self.task.normalise_observations:
            return seen
        flat = steps.observation.reshape(-1, *steps.observation.shape[2:])
        return merge(seen, moments(flat, ~steps.void.reshape(-1)))

    def _batch(self, learnt: Learnt, seen: Moments, steps: Step) -> Batch:
        log_probability, values = steps.notes
        see = jax.vmap(jax.vmap(lambda observation: self._see(observation, seen)))
        value = jax.vmap(jax.vmap(lambda x: self._value(learnt, x)))
        advantage = advantages(
            steps,
            values,
            value(see(steps.following)),
            discount=self.settings.discount,
            trace=self.settings.trace,
        )
        batch = Batch(
            see(steps.observation),
            steps.legal,
            steps.action,
            log_probability,
            values,
            advantage,
            ~steps.void,
        )
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    def _learn(
        self,
        learnt: Learnt,
        opt_state: optax.OptState,
        batch: Batch,
        key: PRNGKeyArray,
        unit: Float[Array, ""],  # of returns, in that of the batch's values
    ) -> tuple[Learnt, optax.OptState, Metrics]:
        def minibatch(carry, rows):
            learnt, opt_state = carry
            part = jax.tree.map(lambda x: x[rows], batch)
            grads, losses = jax.grad(self._loss, has_aux=True)(learnt, part, unit)
            updates, opt_state = self.optimizer.update(
                grads, opt_state, cast(Any, learnt)
            )
            learnt = cast(Learnt, optax.apply_updates(cast(Any, learnt), updates))
            return (learnt, opt_state), losses

        def epoch(carry, key):
            rows = jax.random.permutation(key, batch.value.size)
            return jax.lax.scan(
                minibatch, carry, rows.reshape(self.settings.minibatches, -1)
            )

        keys = jax.random.split(key, self.settings.epochs)
        (learnt, opt_state), losses = jax.lax.scan(epoch, (learnt, opt_state), keys)
        return learnt, opt_state, jax.tree.map(jnp.mean, losses)

    def _loss(
        self, learnt: Learnt, batch: Batch, unit: Float[Array, ""]
    ) -> tuple[Array, Metrics]:
        settings = self.settings
        outputs = jax.vmap(lambda x: self._outputs(learnt, x))(batch.x)
        values = jax.vmap(lambda x: self._value(learnt, x))(batch.x)
        log_probability = self.head.log_probability(outputs, batch.action, batch.legal)
        ratio = jnp.exp(log_probability - batch.log_probability)
        advantage = batch.advantage
        centred = advantage - batch.mean(advantage)
        advantage = centred / (jnp.sqrt(batch.mean(centred**2)) + 1e-8)
        bounded = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
        policy = -batch.mean(jnp.minimum(ratio * advantage, bounded * advantage))
        target = batch.value + batch.advantage
        errors = (values - target) ** 2
        if settings.value_clip is not None:
            bound = settings.value_clip * unit
            near = batch.value + jnp.clip(values - batch.value, -bound, bound)
            errors = jnp.maximum(errors, (near - target) ** 2)
        value = batch.mean(errors) / 2
        entropy = batch.mean(self.head.entropy(outputs, batch.legal))
        loss = policy + settings.value * value - settings.entropy * entropy
        return loss, {
            "loss/policy": policy,
            "loss/value": value,
            "policy/entropy": entropy,
            "policy/change": batch.mean(jnp.abs(ratio - 1)),
        }

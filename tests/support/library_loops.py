"""Episodes of a random player, by the own loop of each library.

Written from the documentation of the libraries alone: their `reset` and `step`, their
time limits, their word on when an episode is over. Nothing of ours is imported.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


EPISODES = 256


class Outcome(NamedTuple):
    """Of many episodes."""

    returns: np.ndarray
    lengths: np.ndarray


class Loop(NamedTuple):
    """A library's own: key -> state; state, key -> state, reward, whether it is over.

    A step takes an action at random, any legal one as likely as the next.
    """

    reset: Callable[[jax.Array], Any]
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array, jax.Array]]


def likely(key, mask):
    """One of the actions that a mask allows."""
    return jax.random.choice(key, mask.size, p=mask.ravel() / mask.sum())


def gymnax(name: str, **options: Any) -> Loop:
    import gymnax

    env, params = gymnax.make(name)
    params = params.replace(**options)

    def step(state, key):
        key_act, key_step = jax.random.split(key)
        action = env.action_space(params).sample(key_act)
        _, state, reward, terminated, truncated, _ = env.step(
            key_step, state, action, params
        )
        return state, reward, terminated | truncated

    return Loop(lambda key: env.reset(key, params)[1], step)


def navix(name: str, **options: Any) -> Loop:
    import navix

    env = navix.make(name, **options)

    def step(timestep, key):
        action = jax.random.randint(key, (), 0, len(env.action_set))
        timestep = env.step(timestep, action)
        return timestep, timestep.reward, timestep.is_done()

    return Loop(env.reset, step)


def craftax(name: str, **options: Any) -> Loop:
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name(name, auto_reset=False)
    params = env.default_params.replace(**options)

    def step(state, key):
        key_act, key_step = jax.random.split(key)
        action = env.action_space(params).sample(key_act)
        _, state, reward, done, _ = env.step(key_step, state, action, params)
        return state, reward, done

    return Loop(lambda key: env.reset(key, params)[1], step)


def jumanji(name: str, **options: Any) -> Loop:
    import jumanji

    env = jumanji.make(name, **options)

    def step(now, key):
        state, timestep = now
        action = likely(key, timestep.observation.action_mask)
        state, timestep = env.step(state, action)
        return (state, timestep), timestep.reward, timestep.last()

    return Loop(env.reset, step)


def brax(name: str, **options: Any) -> Loop:
    from brax import envs

    env = envs.create(name, backend="spring", auto_reset=False, **options)

    def step(state, key):
        action = jax.random.uniform(key, (env.action_size,), minval=-1, maxval=1)
        state = env.step(state, action)
        return state, state.reward, state.done.astype(bool)

    return Loop(env.reset, step)


def playground(name: str, **options: Any) -> Loop:
    from brax.envs.wrappers.training import EpisodeWrapper
    from mujoco_playground import registry

    env = registry.load(name, config_overrides={"impl": "jax"})
    env = EpisodeWrapper(env, **options)  # as its own `wrap_for_brax_training`

    def step(state, key):
        action = jax.random.uniform(key, (env.action_size,), minval=-1, maxval=1)
        state = env.step(state, action)
        return state, state.reward, state.done.astype(bool)

    return Loop(env.reset, step)


def pgx(name: str) -> Loop:
    import pgx

    env = pgx.make(name)

    def step(state, key):
        key_act, key_step = jax.random.split(key)
        action = likely(key_act, state.legal_action_mask)
        state = env.step(state, action, key_step)
        return state, state.rewards[0], state.terminated | state.truncated

    return Loop(env.init, step)


def team(name: str, side: str, **options: Any) -> Loop:
    """JaxMARL's; the mean reward of those agents whose names begin with `side`."""
    import jaxmarl

    env = jaxmarl.make(name, **options)
    own = [agent for agent in env.agents if agent.startswith(side)]

    def step(state, key):
        key_act, key_step = jax.random.split(key)
        keys = dict(
            zip(env.agents, jax.random.split(key_act, env.num_agents), strict=True)
        )
        if name == "SMAX":
            masks = env.get_avail_actions(state)
            actions = {agent: likely(keys[agent], masks[agent]) for agent in keys}
        else:
            sample = lambda agent: env.action_space(agent).sample(keys[agent])
            actions = {agent: sample(agent) for agent in keys}
        _, state, reward, done, _ = env.step(key_step, state, actions)
        gained = sum(reward[agent] for agent in own) / len(own)
        return state, gained, done["__all__"]

    return Loop(lambda key: env.reset(key)[1], step)


def played(loop: Loop, seed: int) -> Outcome:
    """Play until the library has said of every episode, once, that it is over."""
    new = lambda key: jax.random.split(key, EPISODES)
    key = jax.random.key(seed)
    step = jax.jit(jax.vmap(loop.step))
    now = jax.jit(jax.vmap(loop.reset))(new(key))
    returns, lengths = np.zeros(EPISODES), np.zeros(EPISODES, int)
    running = np.ones(EPISODES, bool)
    for time in range(5000):
        now, reward, over = step(now, new(jax.random.fold_in(key, time)))
        returns[running] += np.asarray(reward)[running]
        lengths[running] += 1
        running &= ~np.asarray(over)
        if not running.any():
            return Outcome(returns, lengths)
    raise AssertionError(f"{running.sum()} episodes never end")


def taxi(seed: int) -> Outcome:
    """Gymnasium's loop, with its masks as its documentation says to use them."""
    import gymnasium

    env = gymnasium.make("Taxi-v4", max_episode_steps=60)
    env.action_space.seed(seed)
    returns, lengths = np.zeros(EPISODES), np.zeros(EPISODES, int)
    for episode in range(EPISODES):
        _, info = env.reset(seed=seed + episode)
        over = False
        while not over:
            action = env.action_space.sample(mask=info["action_mask"])
            _, reward, terminated, truncated, info = env.step(action)
            returns[episode] += float(reward)
            lengths[episode] += 1
            over = terminated or truncated
    return Outcome(returns, lengths)

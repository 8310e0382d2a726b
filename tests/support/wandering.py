"""An environment that needs no library: a walker in a row of a picture, and wind."""

import jax
import jax.numpy as jnp

from tasks.control import Discrete, Environment


class Wandering(Environment):
    """Walks along the middle row of a picture; the reward is the place.

    The wind, which no picture shows, keeps blowing one way for a while.
    """

    name = "wandering"
    action_space = Discrete(2)
    observation_shape = (3, 3, 2)
    step_limit = 12

    def reset(self, key):
        place, wind = jax.random.randint(key, (2,), 0, 2)
        return (place, wind), self._see(place)

    def step(self, state, action, key):
        place, wind = state
        wind = jnp.where(jax.random.bernoulli(key, 0.2), 1 - wind, wind)
        place = jnp.clip(place + 2 * action - 1 + wind, 0, 2)
        reward = place.astype(jnp.float32)
        return (place, wind), self._see(place), reward, jnp.bool(False)

    def _see(self, place):
        return jnp.zeros(self.observation_shape).at[1, place, 0].set(1.0)

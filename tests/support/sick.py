"""Toy tasks that are well, and toy tasks with one thing wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from toy import Line


@dataclasses.dataclass(frozen=True)
class Wide(Line):
    """Nothing is wrong with it."""

    inputs: int = 8
    outputs: int = 4

    def init(self, key):
        w = 0.3 * jax.random.normal(key, (self.inputs, self.outputs))
        return {"w": w, "b": jnp.full(self.outputs, 0.1)}


@dataclasses.dataclass(frozen=True)
class Deep(Wide):
    """Nothing is wrong with this one, either; it saturates."""

    def init(self, key):
        one, two = jax.random.split(key)
        return {
            "w": 0.3 * jax.random.normal(one, (self.inputs, 16)),
            "v": 0.3 * jax.random.normal(two, (16, self.outputs)),
        }

    def batch(self, state, step, key):
        x, y = super().batch(state, step, key)
        return x, jnp.tanh(y - 1)

    def evaluate(self, params, data, carry, key):
        x, y = data
        seen = jnp.tanh(jnp.tanh(x @ params["w"]) @ params["v"])
        return -jnp.mean((seen - y) ** 2), carry, {"steps": self.batch_size}

    def validate(self, params, state, key):
        data = self.batch(state, 0, jax.random.key(0))
        return {"error": -float(self.evaluate(params, data, (), key)[0])}


def changed(change):
    """A task whose fitness is changed: `(fitness, params, key) -> fitness`."""

    @dataclasses.dataclass(frozen=True)
    class Changed(Wide):
        def evaluate(self, params, data, carry, key):
            fitness, carry, aux = super().evaluate(params, data, carry, key)
            return change(fitness, params, key), carry, aux

    return Changed


Constant = changed(lambda fitness, *_: 0 * fitness)
Flipped = changed(lambda fitness, *_: -fitness)
Lottery = changed(lambda fitness, _, key: 0 * fitness + jax.random.bernoulli(key, 0.3))
Failing = changed(
    lambda fitness, _, key: jnp.where(jax.random.uniform(key) < 0.4, jnp.nan, fitness)
)


@dataclasses.dataclass(frozen=True)
class Hard(changed(lambda fitness, *_: jnp.float32(fitness > -2.6))):
    """A hundredth of the members succeed, on data that stay the same."""

    def init(self, key):
        return super().init(jax.random.key(0))

    def batch(self, state, step, key):
        return super().batch(state, 0, jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Noise(Wide):
    """Fitness is drawn anew for each member."""

    def evaluate(self, params, data, carry, key):
        fitness, carry, aux = super().evaluate(params, data, carry, key)
        bits = jax.lax.bitcast_convert_type(fitness, jnp.int32)
        return jax.random.normal(jax.random.fold_in(key, bits)), carry, aux


@dataclasses.dataclass(frozen=True)
class Runaway(Wide):
    """The more of b, the better, for ever."""

    def evaluate(self, params, data, carry, key):
        x, y = data
        error = jnp.mean((x @ params["w"] - y) ** 2)
        return jnp.sum(params["b"]) - error, carry, {"steps": self.batch_size}

    def validate(self, params, state, key):
        return {"error": float(np.mean((params["w"] - self.truth) ** 2))}

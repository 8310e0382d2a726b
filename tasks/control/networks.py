"""Which network reads the observations, and how it is run over a step."""

import dataclasses
import importlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eggroll import UserError


NETWORKS = {
    "mlp": "models.mlp:MLP",
    "paper": "models.mlp:PaperMLP",
    "gru": "models.recurrent:GRU",
    "conv": "models.conv:ConvNet",
    "itemwise": "models.itemwise:Itemwise",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A Flax NNX model, split into a pytree of parameters and pure functions.

    A *feed-forward* model is called as `model(x)`. A *recurrent* one, which is told
    by its method `initial_memory()`, is called as `model(x, memory)` and returns
    its outputs and the next memory. Observations are flattened, unless the class
    says `spatial = True`; it then gets their shape as `inputs`.

    Attributes:
        kind: one of `NETWORKS`, or `package.module:Class`; the class is built as
            `Class(inputs, outputs, hidden=, activation=, rngs=)`.
        observation_shape: shape of what one agent observes.
        outputs: how many numbers to put out.
        hidden: width of each hidden layer.
        activation: a name from `models.activations.ACTIVATIONS`.
        agents: how many agents act at once, if it is a team: observations, outputs
            and memory then have a leading axis of agents.
        shared: whether all agents have the same parameters; if not, parameters have
            a leading axis of agents too.
        free: how many of the outputs, the last ones, are parameters of their own and
            no function of what is observed; they start at 0. Parameters are then a
            dict of `model` and `free`.
    """

    kind: str
    observation_shape: tuple[int, ...]
    outputs: int
    hidden: Sequence[int] = (64, 64)
    activation: str = "pqn"
    agents: int | None = None
    shared: bool = True
    free: int = 0

    def check(self) -> None:
        """Build the model without computing anything, to refuse what cannot be."""
        self._graph  # noqa: B018  (a cached property, evaluated for its errors)

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Draw parameters: nested dicts of arrays."""

        def draw(key: PRNGKeyArray) -> PyTree:
            params = nnx.to_pure_dict(nnx.state(self._build(key)))
            if not self.free:
                return params
            return {"model": params, "free": jnp.zeros(self.free)}

        if self.agents is None or self.shared:
            return jax.jit(draw)(key)
        return jax.jit(jax.vmap(draw))(jax.random.split(key, self.agents))

    @cached_property
    def memory(self) -> PyTree:
        """What the network remembers at the start of an episode."""
        if not self._is_recurrent:
            return ()
        # Kept for ever, so that it must be no part of what is being traced just now.
        with jax.ensure_compile_time_eval():
            memory = self._build(jax.random.key(0)).initial_memory()
            if self.agents is None:
                return memory
            team = (self.agents,)
            return jax.tree.map(lambda x: jnp.broadcast_to(x, team + x.shape), memory)

    def __call__(
        self, params: PyTree, observation: Float[Array, "..."], memory: PyTree
    ) -> tuple[Float[Array, "..."], PyTree]:
        """Return outputs and the next memory, for one agent or one team."""
        if self.agents is None:
            return self._one(params, observation, memory)
        axes = (None if self.shared else 0, 0, 0)
        return jax.vmap(self._one, axes)(params, observation, memory)

    def _one(
        self, params: PyTree, observation: Float[Array, "..."], memory: PyTree
    ) -> tuple[Float[Array, "..."], PyTree]:
        if not self._is_spatial:
            observation = observation.reshape(-1)
        model = nnx.merge(self._graph, params["model"] if self.free else params)
        if self._is_recurrent:
            outputs, memory = model(observation, memory)
        else:
            outputs = model(observation)
        if self.free:
            outputs = jnp.concatenate([outputs, params["free"]])
        return outputs, memory

    @cached_property
    def _class(self) -> Any:
        path = NETWORKS.get(self.kind, self.kind)
        module, _, name = path.partition(":")
        if not name:
            raise UserError(
                f"Expected network to be one of {', '.join(NETWORKS)}, or "
                f"package.module:Class; got {self.kind!r:.80}."
            )
        try:
            found = getattr(importlib.import_module(module), name, None)
        except (ModuleNotFoundError, TypeError, ValueError) as error:
            raise UserError(
                f"network: {path!r:.80} cannot be found: {error}"
            ) from error
        if not (isinstance(found, type) and issubclass(found, nnx.Module)):
            raise UserError(
                f"network: expected a class of flax.nnx.Module, got {path!r:.80}"
            )
        return found

    @property
    def _is_spatial(self) -> bool:
        return getattr(self._class, "spatial", False)

    @property
    def _is_recurrent(self) -> bool:
        return hasattr(self._class, "initial_memory")

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return nnx.graphdef(nnx.eval_shape(lambda: self._build(jax.random.key(0))))

    def _build(self, key: PRNGKeyArray) -> Any:
        shape = self.observation_shape
        return self._class(
            shape if self._is_spatial else math.prod(shape),
            self.outputs - self.free,
            hidden=tuple(self.hidden),
            activation=self.activation,
            rngs=nnx.Rngs(key),
        )

"""Where a run's state lies: on which devices of a mesh, of how many processes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from eggroll.config.schema import Config
from eggroll.evolution import reduction
from eggroll.evolution.partition import shardings
from eggroll.evolution.sharding import AXIS
from eggroll.perturbation.layout import named_leaves
from eggroll.training import instantiate
from eggroll.training.state import State


def of_state(config: Config, like: State, members: int) -> Any:
    """Where each array of a state lies.

    Parameters lie as the settings say, what an optimiser keeps for one lies as this
    does, members' carries are spread with them, and all else is everywhere.

    Args:
        config: the settings.
        like: the state, or its shapes.
        members: how many have a carry.

    Returns:
        A `State` of `NamedSharding`.

    Raises:
        UserError: if a parameter cannot lie so.
    """
    mesh = instantiate.mesh(config)
    everywhere = NamedSharding(mesh, PartitionSpec())
    with instantiate.blaming("mesh.partition"):
        params = shardings(like.params, mesh, instantiate.partition(config))
    kept = params
    if config.mesh.update == "scatter":
        kept = jax.tree.map(_divided, like.params, params)
    # A carry that is none of the population's, as of `backprop`, cannot be split.
    is_split = members % mesh.shape[AXIS] == 0
    by_member = NamedSharding(mesh, PartitionSpec(AXIS)) if is_split else everywhere
    return State(
        params=params,
        opt_state=_beside(like.opt_state, like.params, kept, everywhere),
        step=everywhere,  # pyrefly: ignore[bad-argument-type]
        key=everywhere,  # pyrefly: ignore[bad-argument-type]
        task=jax.tree.map(lambda _: everywhere, like.task),
        carry=jax.tree.map(lambda _: by_member, like.carry),
    )


def placed(tree: PyTree, lies: PyTree) -> PyTree:
    """Puts arrays where they are to lie; each process has all of them at first.

    Random keys cannot be put onto devices of other processes: their words are.
    """

    def one(x: Any, sharding: NamedSharding) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            words, kind = np.asarray(jax.random.key_data(x)), jax.random.key_impl(x)
            wrap = lambda words: jax.random.wrap_key_data(words, impl=kind)
            return jax.jit(wrap, out_shardings=sharding)(words)
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        whole = np.asarray(x)
        part = lambda index: whole[index]
        return jax.make_array_from_callback(whole.shape, sharding, part)

    return jax.tree.map(one, tree, lies)


def settled(tree: PyTree, lies: PyTree) -> PyTree:
    """The same arrays where they are to lie, if a program has left them elsewhere."""
    is_there = lambda x, wanted: x.sharding.is_equivalent_to(wanted, x.ndim)
    move = lambda x, wanted: x if is_there(x, wanted) else jax.device_put(x, wanted)
    return jax.tree.map(move, tree, lies)


def _divided(x: Any, sharding: Any) -> NamedSharding:
    """Where lies the part of a parameter that a device of the population updates."""
    dimension = reduction.along(x.shape, sharding.spec, sharding.mesh)
    if dimension is None:
        return sharding
    names = [*sharding.spec, *[None] * (len(x.shape) - len(sharding.spec))]
    names[dimension] = AXIS
    return NamedSharding(sharding.mesh, PartitionSpec(*names))


def _beside(
    kept: PyTree, params: PyTree, lies: PyTree, everywhere: NamedSharding
) -> PyTree:
    """Where lies what is kept beside parameters.

    An array that ends in the path of a parameter and has its shape is of that one.
    """
    known = {
        path: (x.shape, sharding)
        for (path, x), sharding in zip(
            named_leaves(params), jax.tree.leaves(lies), strict=True
        )
    }

    def one(path: str, x: Any) -> NamedSharding:
        parts = path.split("/")
        for at in range(len(parts)):
            shape, sharding = known.get("/".join(parts[at:]), (None, None))
            if sharding is not None and shape == x.shape:
                return sharding
        return everywhere

    found = [one(path, x) for path, x in named_leaves(kept)]
    return jax.tree.unflatten(jax.tree.structure(kept), found)

"""Ways in which the sum over all members gets to all devices.

Noise is drawn again for the update, so that members can be summed by any device:

- `reduce`: each sums its own members, and one all-reduce adds the sums up;
- `scatter`: each sums its own, and keeps of the total its part alone (one
  reduce-scatter): gradients lie divided over the population, and so does what an
  optimiser keeps and makes of them, until the next parameters are gathered;
- `replay`: only the members' weights travel, and each device sums all members;
- `mixed`: `replay` between hosts and `reduce` within.

All give the same sums but for the order of their terms.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Num, PRNGKeyArray

from eggroll.evolution import order, sharding
from eggroll.evolution.sharding import AXIS
from eggroll.perturbation.layout import Layout


Way = Literal["reduce", "scatter", "replay", "mixed"]
Rows = tuple[Array, Num[Array, " pairs"]]  # the numbers of pairs, and their weights
Sums = list[Array | None]

_WHOLE = PartitionSpec()


def over_devices(
    local: Callable[[PRNGKeyArray, Rows], Sums],
    layouts: Sequence[Layout],
    mesh: Mesh | None,
    way: Way,
    *,
    in_order: bool = False,
) -> Callable[[PRNGKeyArray, Rows], Sums]:
    """Sums over the pairs of all devices.

    Args:
        local: sums some pairs on one device; None for a frozen leaf.
        layouts: of the leaves.
        mesh: over which to spread; None for one device.
        way: how.
        in_order: whether `reduce` is to add up in the same order on any devices.
    """
    if mesh is None or mesh.shape[AXIS] == 1:
        return sharding.spread(local, mesh, results=_WHOLE)
    if way == "replay":
        return sharding.spread(local, mesh, rows=_WHOLE, results=_WHOLE)
    if way == "mixed":
        group, total = group_of(mesh), mesh.shape[AXIS]
        within = [[*range(at, at + group)] for at in range(0, total, group)]
        part = lambda key, rows: local(key, _share(rows, group))
        out = lambda sums: jax.lax.psum(sums, AXIS, axis_index_groups=within)
        return sharding.spread(part, mesh, out, rows=_WHOLE, results=_WHOLE)
    if way == "scatter":
        divided = [along(layout.shape, layout.spec, mesh) for layout in layouts]
        out = lambda sums: [
            _scattered(x, d, layout.spec)
            for x, d, layout in zip(sums, divided, layouts, strict=True)
        ]
        specs = [
            None if layout.is_frozen else _spec(d)
            for layout, d in zip(layouts, divided, strict=True)
        ]
        return sharding.spread(local, mesh, out, results=specs)
    out = lambda sums: jax.lax.psum(sums, AXIS)
    if in_order:
        total = lambda x: order.all_reduced(x, mesh.shape[AXIS])
        out = lambda sums: jax.tree.map(total, sums)
    return sharding.spread(local, mesh, out, results=_WHOLE)


def group_of(mesh: Mesh) -> int:
    """How many neighbours along the population are of one host; all, if unevenly."""
    devices = mesh.devices.swapaxes(0, mesh.axis_names.index(AXIS))
    hosts = [device.process_index for device in devices.reshape(len(devices), -1)[:, 0]]
    group = hosts.count(hosts[0])
    runs = [{*hosts[at : at + group]} for at in range(0, len(hosts), group)]
    even = len(hosts) % group == 0 and all(len(run) == 1 for run in runs)
    return group if even else len(hosts)


def along(shape: Sequence[int], spec: PartitionSpec | None, mesh: Mesh) -> int | None:
    """The dimension along which `scatter` divides a leaf; None: it stays whole.

    The largest that the population divides and the model does not.
    """
    taken = [names is not None for names in spec or ()]
    free = [
        (n, d)
        for d, n in enumerate(shape)
        if not any(taken[d : d + 1]) and n and n % mesh.shape[AXIS] == 0
    ]
    return max(free)[1] if free else None


def check(way: str) -> None:
    """Refuses a way that there is not.

    Raises:
        ValueError: naming those there are.
    """
    known = get_args(Way)
    if way not in known:
        raise ValueError(f"update must be one of {', '.join(known)}, got {way!r}")


def _share(rows: Rows, group: int) -> Rows:
    """The rows that one of a group of devices takes of all, filled up with zeros."""
    count = rows[0].shape[0]
    size = math.ceil(count / group)
    at = jax.lax.axis_index(AXIS) % group * size

    def own(x: Array) -> Array:
        padded = jnp.pad(x, (0, size * group - count))
        return jax.lax.dynamic_slice_in_dim(padded, at, size)

    return own(rows[0]), own(rows[1])


def _scattered(
    x: Array | None, dimension: int | None, spec: PartitionSpec | None
) -> Array | None:
    """Adds up over devices, which keep a part each, along a dimension."""
    if x is None:
        return None
    if dimension is None:  # a vector of odd length: small, or it would be a matrix
        return jax.lax.psum(x, AXIS)
    scatter = lambda x: jax.lax.psum_scatter(
        x, AXIS, scatter_dimension=dimension, tiled=True
    )
    if spec is None:
        return scatter(x)
    # By hand over all axes: XLA would gather the parts of the model first.
    return jax.shard_map(scatter, in_specs=spec, out_specs=spec, check_vma=False)(x)


def _spec(dimension: int | None) -> PartitionSpec:
    return _WHOLE if dimension is None else PartitionSpec(*[None] * dimension, AXIS)

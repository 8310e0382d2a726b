"""How a Transformer's parameters may be divided over the devices that share it.

Heads and hidden units are divided, and what they are made to sums is added up over the
devices once in each block, as in Megatron-LM (arXiv 1909.08053); the embedding and the
head are divided by words. Names are those of `Transformer.init`.
"""

from jax.sharding import PartitionSpec


_COLUMNS, _ROWS = PartitionSpec(None, None, "model"), PartitionSpec(None, "model")

TRANSFORMER: dict[str, PartitionSpec] = {
    "embed": PartitionSpec("model"),
    "head": PartitionSpec(None, "model"),
    "layers/[qkv]": _COLUMNS,
    "layers/o": _ROWS,
    "layers/gate": _COLUMNS,
    "layers/up": _COLUMNS,
    "layers/down": _ROWS,
}


def transformer(params: dict) -> dict[str, PartitionSpec]:
    """The rules for those parameters that there are (a tied model has no head)."""
    known = {name for name in params if name != "layers"}
    return {k: v for k, v in TRANSFORMER.items() if "/" in k or k in known}

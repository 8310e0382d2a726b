"""Where the files of Hugging Face have each parameter of a Transformer."""

from typing import NamedTuple

import jax

from models.llm.config import TransformerConfig
from models.llm.transformer import Transformer


OUTSIDE = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}
MODULES = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NOT_WEIGHTS = "rotary_emb.inv_freq"  # older files have them; config.json says the same


class Leaf(NamedTuple):
    """Where a leaf of the parameters is found in the files.

    Attributes:
        path: of its keys.
        shape: as parameters have it.
        names: of the tensors: one, or one for each layer, if it is stacked.
        stacked: whether its leading dimension is that of the layers.
        transposed: whether the files have (outputs, inputs).
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: bool
    transposed: bool

    @property
    def shape_in_file(self) -> tuple[int, ...]:
        """That of each of the tensors."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape


def plan(config: TransformerConfig) -> list[Leaf]:
    """Says where each leaf of the parameters stands in Hugging Face's files."""
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0))
    layers = shapes.pop("layers")
    leaves = []
    for name, x in shapes.items():
        is_head = name == "head"
        leaves.append(Leaf((name,), x.shape, (OUTSIDE[name],), False, is_head))
    for name, x in layers.items():
        module = MODULES[name.removesuffix("_bias")]
        part = "bias" if name.endswith("_bias") else "weight"
        names = tuple(f"model.layers.{i}.{module}.{part}" for i in range(config.layers))
        leaves.append(Leaf(("layers", name), x.shape, names, True, x.ndim == 3))
    return leaves

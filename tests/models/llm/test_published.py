"""What is published is as large as its makers say."""

import math

import jax
import pytest

from models.llm.published import PUBLISHED
from models.llm.rwkv7 import RWKV7


# Numbers of parameters: of the weights' files, and for RWKV-7 up to 2.9B of the table
# in the paper.
COUNTS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "llama3.2-1b": 1_235_814_400,
    "smollm2-135m": 134_515_008,
    "rwkv7-0.1b": 191_034_624,
    "rwkv7-0.4b": 450_767_872,
    "rwkv7-1.5b": 1_527_404_544,
    "rwkv7-2.9b": 2_947_735_040,
}
NAMES = {"rwkv7-7b": 7.2e9, "rwkv7-14b": 13.3e9}


def count(model):
    """Parameters, without those of layer 0 that RWKV-7 has not."""
    shapes = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
    size = sum(math.prod(x.shape) for x in shapes)
    if isinstance(model, RWKV7):
        size -= model.config.width * (2 * model.config.value_rank + 1)
    return size


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_have_as_many_parameters_as_published(name):
    found = count(PUBLISHED[name].model)
    if name in NAMES:
        assert found == pytest.approx(NAMES[name], rel=0.005)
    else:
        assert found == COUNTS[name]


def test_ranks_follow_the_rule_of_their_authors_with_two_exceptions():
    nearest = lambda x: round(x / 32) * 32
    unlike = set()
    for name, published in PUBLISHED.items():
        if isinstance(published.model, RWKV7):
            c = published.model.config
            root = c.width**0.5
            rule = nearest(1.8 * root), nearest(1.3 * root), nearest(0.6 * c.width**0.8)
            if rule != (c.decay_rank, c.value_rank, c.gate_rank):
                unlike.add(name)
    assert unlike == {"rwkv7-0.4b", "rwkv7-14b"}


def test_models_are_named_by_where_they_are():
    for name, (model, hub, files) in PUBLISHED.items():
        size = name.split("-")[-1]
        assert files
        assert hub.count("/") == 1
        if not isinstance(model, RWKV7):
            assert size in hub.lower()

import json

import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import UserError
from eggroll.runs import tensors
from models.llm import safetensors


PARAMS = {
    "layers": [{"w": jnp.arange(6.0).reshape(2, 3)}, {"w": jnp.ones((1, 2), jnp.int8)}],
    "half": jnp.ones(3, jnp.bfloat16),
    "number": jnp.float32(2),
    "none": jnp.zeros((0, 4)),
    "name": "no array",
}


def test_arrays_are_found_by_the_paths_of_their_leaves(tmp_path):
    path = tmp_path / "params.safetensors"
    assert tensors.write(path, PARAMS, {"step": "7"}) == 5
    found = safetensors.read(path)  # checks sizes and places
    assert {*found} == {"layers/0/w", "layers/1/w", "half", "number", "none"}
    for name, expected in (
        ("layers/0/w", PARAMS["layers"][0]["w"]),
        ("layers/1/w", PARAMS["layers"][1]["w"]),
        ("half", PARAMS["half"]),
        ("number", PARAMS["number"]),
        ("none", PARAMS["none"]),
    ):
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    start = path.read_bytes()
    header = json.loads(start[8 : 8 + int.from_bytes(start[:8], "little")])
    assert header["__metadata__"] == {"step": "7"}


def test_types_that_the_format_lacks_are_refused(tmp_path):
    with pytest.raises(UserError, match="w is int4, and safetensors have no such type"):
        tensors.write(tmp_path / "x", {"w": jnp.ones(2, jnp.int4)}, {})

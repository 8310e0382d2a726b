"""RWKV-7's checkpoints: what is read is written, and what is wrong is named."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import parity_rwkv
import pytest

from models.llm import rwkv7_checkpoint
from models.llm.rwkv7 import RWKV7
from models.llm.rwkv7_checkpoint import from_tensors, to_tensors
from models.llm.rwkv7_config import RWKV7Config


CONFIG = RWKV7Config(
    width=128,
    layers=3,
    heads=2,
    feedforward=80,
    vocabulary=11,
    decay_rank=4,
    rate_rank=3,
    value_rank=2,
    gate_rank=5,
)


def tensors_of(config: RWKV7Config = CONFIG) -> dict[str, np.ndarray]:
    return to_tensors(config, parity_rwkv.params_of(config))


def equal(x, y):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("layer0_values", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_reading_is_the_inverse_of_writing(layer0_values, layers):
    config = dataclasses.replace(CONFIG, layer0_values=layer0_values, layers=layers)
    if layers == 1 and not layer0_values:
        config = dataclasses.replace(config, value_rank=1)  # no file tells it
    params = parity_rwkv.params_of(config)
    tensors = to_tensors(config, params)
    assert ("blocks.0.att.v1" in tensors) == layer0_values
    found, read = from_tensors(tensors)
    assert found == config
    jax.tree.map(equal, read, jax.tree.map(jnp.asarray, params))


def test_names_and_shapes_are_the_published_ones():
    tensors = tensors_of()
    shapes = {name: x.shape for name, x in tensors.items() if "blocks.1" in name}
    assert len(tensors) == 2 * 2 + 2 + 3 * 33 - 3
    assert {
        "blocks.1.att.x_r": (1, 1, 128),
        "blocks.1.att.w0": (1, 1, 128),
        "blocks.1.att.w1": (128, 4),
        "blocks.1.att.w2": (4, 128),
        "blocks.1.att.r_k": (2, 64),
        "blocks.1.att.ln_x.weight": (128,),
        "blocks.1.ffn.x_k": (1, 1, 128),
        "blocks.1.ffn.key.weight": (80, 128),
        "blocks.1.ffn.value.weight": (128, 80),
        "blocks.1.ln2.bias": (128,),
    }.items() <= shapes.items()
    assert tensors["emb.weight"].shape == tensors["head.weight"].shape == (11, 128)


def test_vectors_come_with_axes_of_one_or_without():
    tensors = tensors_of()
    plain = {name: x if x.ndim < 3 else x.reshape(-1) for name, x in tensors.items()}
    jax.tree.map(equal, from_tensors(plain)[1], from_tensors(tensors)[1])


def test_types_are_the_widest_of_the_file_or_as_asked_for():
    tensors = tensors_of()
    narrow = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
    types = lambda *args: {x.dtype for x in jax.tree.leaves(from_tensors(*args)[1])}
    assert types(narrow) == {jnp.dtype(jnp.bfloat16)}
    mixed = narrow | {"blocks.0.att.w0": tensors["blocks.0.att.w0"]}
    assert types(mixed) == {jnp.dtype(jnp.float32)}
    assert types(mixed, jnp.bfloat16) == {jnp.dtype(jnp.bfloat16)}


def test_what_is_missing_unknown_or_of_another_shape_is_listed():
    tensors = tensors_of()
    del tensors["blocks.2.att.k_a"], tensors["ln_out.bias"]
    tensors["blocks.1.att.u"] = np.zeros(3)
    tensors["blocks.1.ln1.bias"] = np.zeros(127)
    with pytest.raises(ValueError, match="not the tensors of an RWKV-7") as error:
        from_tensors(tensors)
    for words in (
        "missing: blocks.2.att.k_a, ln_out.bias;",
        "not of RWKV-7: blocks.1.att.u;",
        "of another shape: blocks.1.ln1.bias (127,) instead of (128,)",
    ):
        assert words in str(error.value)


def without(name: str) -> dict:
    return {k: x for k, x in tensors_of().items() if k != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "has a tensor emb.weight, this has none at all"),
        (without("blocks.0.att.r_k"), "has a tensor blocks.0.att.r_k, this has only:"),
        (tensors_of() | {"emb.weight": np.zeros(3)}, r"is a matrix, got \(3,\)"),
        (tensors_of() | {"emb.weight": np.zeros((3, 64))}, "2 × 64 entries"),
        (tensors_of() | {"blocks.99999999999.x": np.zeros(3)}, "too few for that"),
        (
            tensors_of() | {"blocks.03.ln1.bias": np.zeros(3)},
            "not of RWKV-7: blocks.03",
        ),
        (tensors_of() | {"blocks.x": np.zeros(3)}, "not of RWKV-7: blocks.x"),
    ],
)
def test_other_checkpoints_are_refused_by_name(tensors, message):
    with pytest.raises(ValueError, match=message):
        from_tensors(tensors)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_safetensors_come_back_as_they_were(dtype, tmp_path):
    params = jax.tree.map(
        lambda x: jnp.asarray(x, dtype), parity_rwkv.params_of(CONFIG)
    )
    path = tmp_path / "model.safetensors"
    rwkv7_checkpoint.write(path, CONFIG, params)
    config, read = rwkv7_checkpoint.read(path)
    assert config == CONFIG
    jax.tree.map(equal, read, params)


# --- Beside the package itself


def shape(**changes) -> RWKV7Config:
    return dataclasses.replace(parity_rwkv.CONFIG, **changes)


@pytest.mark.parity
@pytest.mark.parametrize(
    "config",
    [
        shape(),
        shape(layers=1, width=64, heads=1, layer0_values=True),
        shape(layers=4, width=256, heads=4, feedforward=1000, vocabulary=300),
    ],
    ids=["golden", "one layer", "wide"],
)
def test_the_package_reads_our_tensors_and_agrees(config, tmp_path):
    pytest.importorskip("rwkv")
    params, rows = parity_rwkv.params_of(config), parity_rwkv.prompts(config)
    logits, greedy = parity_rwkv.theirs(config, params, tmp_path, rows)
    found, params = rwkv7_checkpoint.read(tmp_path / "model.pth")  # as torch wrote it
    assert found == config
    model = RWKV7(config)
    prefill, decode = jax.jit(model.prefill), jax.jit(model.decode)
    tokens = np.zeros((len(rows), max(map(len, rows))), int)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    every = jax.jit(lambda p, x: model.head(p, model.hidden(p, x)))(params, tokens)
    for ours, theirs in zip(every, logits, strict=True):
        np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=0, atol=1e-4)
    lengths = jnp.array([len(row) for row in rows])
    out, state = prefill(params, tokens, lengths, model.init_state(len(rows)))
    for expected in greedy.T:
        token = jnp.argmax(out, -1)
        np.testing.assert_array_equal(token, expected)
        out, state = decode(params, token, state)
    if config == parity_rwkv.CONFIG:
        golden = np.load(parity_rwkv.GOLDEN)
        np.testing.assert_allclose(np.concatenate(logits), golden["logits"], atol=1e-4)
        np.testing.assert_array_equal(greedy, golden["greedy"])

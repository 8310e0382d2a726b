"""Against `transformers` itself; `make test-parity` sets up what they need."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import quick

from models.llm import safetensors
from models.llm.checkpoint import load, save
from models.llm.transformer import Transformer


pytestmark = [
    pytest.mark.parity,
    # Theirs to warn of, and that of the libraries beneath them.
    pytest.mark.filterwarnings("ignore"),
]
CASES = list(parity.CASES)


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")


def logits(config, params, tokens):
    model = Transformer(config)
    return quick.jit(lambda p, t: model.head(p, model.hidden(p, t)))(params, tokens)


def close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


def test_the_golden_file_is_what_its_script_writes():
    with np.load(parity.GOLDEN) as file:
        kept = dict(file)
    fresh = parity.golden()
    assert kept.keys() == fresh.keys()
    for name, x in fresh.items():
        (close if "logits" in name else np.testing.assert_array_equal)(kept[name], x)


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_saves_in_shards_has_its_logits(name, tmp_path):
    fields = parity.CASES[name]
    theirs = parity.theirs(parity.put(tmp_path / "a", fields, parity.weights(fields)))
    theirs.save_pretrained(tmp_path / "b", max_shard_size="30KB")
    assert (tmp_path / "b" / safetensors.INDEX).exists()
    ours = logits(*load(tmp_path / "b"), parity.tokens())
    close(ours, parity.their_logits(theirs, parity.tokens()))


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 30_000])
@pytest.mark.parametrize("name", CASES)
def test_what_we_save_has_our_logits_in_transformers(name, shard_bytes, tmp_path):
    fields = parity.CASES[name]
    config, params = load(parity.put(tmp_path / "a", fields, parity.weights(fields)))
    params = jax.tree.map(lambda x: x * 1.1, params)  # as if it had learnt
    save(tmp_path / "b", config, params, shard_bytes=shard_bytes)
    theirs = parity.their_logits(parity.theirs(tmp_path / "b"), parity.tokens())
    close(logits(config, params, parity.tokens()), theirs)


def test_what_is_saved_in_bfloat16_is_loaded_in_it(tmp_path):
    fields = parity.CASES["qwen3"]
    directory = parity.put(tmp_path / "a", fields, parity.weights(fields))
    config, params = load(directory, dtype=jnp.bfloat16)
    save(tmp_path / "b", config, params)
    theirs = parity.theirs(tmp_path / "b")  # reads it in float32
    assert (
        json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "bfloat16"
    )
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    close(
        logits(config, wide, parity.tokens()),
        parity.their_logits(theirs, parity.tokens()),
    )


def test_files_are_those_of_the_library_of_safetensors(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    tensors = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(1, np.float16)}
    described = {
        name: safetensors.Tensor(x.dtype, x.shape, lambda x=x: x)
        for name, x in tensors.items()
    }
    safetensors.write(tmp_path / "ours.safetensors", described, {"format": "pt"})
    library.save_file(tensors, tmp_path / "theirs.safetensors")
    ours = library.load_file(tmp_path / "ours.safetensors")
    theirs = safetensors.read(tmp_path / "theirs.safetensors")
    for name, x in tensors.items():
        np.testing.assert_array_equal(ours[name], x)
        np.testing.assert_array_equal(theirs[name], x)

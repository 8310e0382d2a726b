"""A checkpoint of any kind is known by its files, described, loaded, or refused."""

import json
import math
import shutil
import time

import gguf_files
import jax
import jax.numpy as jnp
import numpy as np
import parity
import parity_rwkv
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.llm import (
    checkpoint,
    gguf,
    gguf_config,
    gguf_file,
    placement,
    pretrained,
    rwkv7_checkpoint,
    safetensors,
)
from models.llm.gguf_blocks import STORAGES
from models.llm.published import PUBLISHED
from models.llm.rwkv7 import RWKV7
from models.llm.transformer import Transformer


FIELDS = parity.CASES["qwen2"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """One checkpoint of each kind, by its kind."""
    root = tmp_path_factory.mktemp("checkpoints")
    rwkv7 = root / "rwkv7" / "tiny.safetensors"
    rwkv7.parent.mkdir()
    params = parity_rwkv.params_of(parity_rwkv.CONFIG)
    rwkv7_checkpoint.write(rwkv7, parity_rwkv.CONFIG, params)
    return {
        "huggingface": parity.put(root / "hf", FIELDS, parity.weights(FIELDS)),
        "gguf": gguf_files.write(root / "a.gguf", *gguf_files.tiny(head_dim=8)),
        "rwkv7": rwkv7,
        "a directory of rwkv7": rwkv7.parent,
    }


KINDS = ["huggingface", "gguf", "rwkv7", "a directory of rwkv7"]


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_described_is_loaded(there, kind):
    model, params = pretrained.load(there[kind])
    assert model == pretrained.describe(there[kind])
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, shapes)
    _, half = pretrained.load(there[kind], dtype="bfloat16")
    equal(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))


def test_each_kind_is_read_by_its_reader(there):
    config, params = checkpoint.load(there["huggingface"])
    model, found = pretrained.load(there["huggingface"])
    assert model == Transformer(config)
    equal(found, params)
    model, found = pretrained.load(there["gguf"])
    assert model == Transformer(gguf.load(there["gguf"])[0])
    for kind in KINDS[2:]:
        assert pretrained.describe(there[kind]) == RWKV7(parity_rwkv.CONFIG)


def meshes():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))
    return lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_weights_come_in_their_shardings_whole(there, kind):
    of = meshes()
    _, params = pretrained.load(there[kind])

    def spread(x):
        """Divides the last two dimensions by two each, where that can be."""
        axes = [None] * max(x.ndim - 2, 0) + ["b", "a"][-min(x.ndim, 2) :]
        parts = zip(x.shape, axes, strict=True)
        return of(*[axis if size % 2 == 0 else None for size, axis in parts])

    shardings = jax.tree.map(spread, params)
    _, found = pretrained.load(there[kind], shardings=shardings)
    equal(found, params)
    assert jax.tree.map(lambda x: x.sharding, found) == shardings
    by_layer = lambda x: of("a" if x.ndim == 3 and x.shape[0] % 2 == 0 else None)
    layers = jax.tree.map(by_layer, params)
    _, found = pretrained.load(there[kind], shardings=layers)
    equal(found, params)
    _, found = pretrained.load(there[kind], shardings=of())
    equal(found, params)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_no_more_is_read_than_a_device_holds(there, kind, monkeypatch):
    most, original = [0], placement.stack

    def watched(shape, dtype, index, read):
        one = lambda *at: most.append(read(*at).size) or read(*at)
        return original(shape, dtype, index, one)

    monkeypatch.setattr(placement, "stack", watched)
    pretrained.load(there[kind])
    whole = max(most)
    del most[1:]
    of = meshes()
    model = pretrained.describe(there[kind])
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    halved = lambda x: of(*[None] * (x.ndim - 1), None if x.shape[-1] % 2 else "a")
    shardings = jax.tree.map(halved, shapes)
    pretrained.load(there[kind], shardings=shardings)
    assert max(most) == whole // 2


@pytest.mark.parametrize("storage", ["Q8_0", "F16"])
@pytest.mark.parametrize("columns", [slice(None), slice(32, 64), slice(5, 90)])
def test_a_part_of_a_quantised_tensor_is_that_part_of_the_whole(
    tmp_path, storage, columns
):
    number, one = next((i, x) for i, x in STORAGES.items() if x.name == storage)
    raw = np.random.default_rng(0).integers(
        0, 60, 6 * 96 // one.weights * one.layout.itemsize, np.uint8
    )
    file = gguf_file.read(
        gguf_files.write(tmp_path / "a", {}, {"x": (number, (6, 96), raw.tobytes())})
    )
    index = (slice(2, 5), columns)
    np.testing.assert_array_equal(file.tensor("x", index), file.tensor("x")[index])


def test_a_part_of_heads_that_are_interleaved_is_that_part(there):
    file = gguf_file.read(there["gguf"])
    part = gguf.layer_parts(gguf_config.config(file), True)["q"]
    part = part._replace(name=part.name.format(1))
    whole = gguf.weight(file, part, "float32", (slice(None),) * 2)
    for start, stop in [(0, 8), (8, 16), (4, 12), (1, 2)]:
        index = (slice(3, 9), slice(start, stop))
        found = gguf.weight(file, part, "float32", index)
        np.testing.assert_array_equal(found, whole[index])


def test_a_large_file_is_described_in_no_time(tmp_path):
    """Of four gigabytes, which are a hole."""
    config = parity_rwkv.CONFIG
    tensors = rwkv7_checkpoint.to_tensors(config, parity_rwkv.params_of(config))
    vocabulary = 2**32 // (4 * config.width)
    header, end = {}, 0
    for name, x in tensors.items():
        is_table = name in ("emb.weight", "head.weight")
        shape = (vocabulary, config.width) if is_table else x.shape
        begin, end = end, end + 4 * math.prod(shape)
        places = {"shape": list(shape), "data_offsets": [begin, end]}
        header[name] = {"dtype": "F32", **places}
    text = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    start = time.perf_counter()
    assert pretrained.describe(path).config.vocabulary == vocabulary
    assert time.perf_counter() - start < 0.5


def test_what_is_missing_is_named_for_who_would_fetch_it(tmp_path):
    qwen, rwkv7 = PUBLISHED["qwen2.5-3b"], PUBLISHED["rwkv7-7b"]
    assert pretrained.missing(tmp_path / "none", qwen) == qwen.files
    assert pretrained.missing(tmp_path, qwen) == qwen.files
    assert pretrained.missing(tmp_path, rwkv7) == rwkv7.files
    assert pretrained.missing(tmp_path) == ("config.json", safetensors.SINGLE)
    for name in qwen.files[:-1]:
        (tmp_path / name).write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": qwen.files[-1]}
    index = json.dumps({"weight_map": shards})
    (tmp_path / safetensors.INDEX).write_text(index)
    assert pretrained.missing(tmp_path, qwen) == qwen.files[-1:]
    assert pretrained.missing(tmp_path) == qwen.files[-1:]
    (tmp_path / safetensors.SINGLE).write_text("saved anew, as one")
    assert pretrained.missing(tmp_path, qwen) == ()
    (tmp_path / "tokenizer.json").unlink()
    assert pretrained.missing(tmp_path, qwen) == ("tokenizer.json",)
    assert pretrained.missing(tmp_path) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_of_what_is_whole_nothing_is_missing(there, kind):
    assert pretrained.missing(there[kind]) == ()
    if kind != "huggingface":
        assert pretrained.missing(there[kind], PUBLISHED["rwkv7-0.1b"]) == ()


def test_what_is_no_checkpoint_is_refused_with_what_is_one(there, tmp_path):
    refused = lambda error, match: pytest.raises(error, match=match)
    kinds = "a checkpoint is a directory with config.json and safetensors"
    with refused(FileNotFoundError, f"no such file or directory; {kinds}"):
        pretrained.describe(tmp_path / "none")
    with refused(FileNotFoundError, f"neither config.json nor .* {kinds}"):
        pretrained.load(tmp_path)
    (tmp_path / "a.txt").write_text("A text, and no model at all.")
    with refused(ValueError, f"a.txt is none of the files that are read: {kinds}"):
        pretrained.load(tmp_path / "a.txt")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    with refused(ValueError, "is a pickle, which can run anything"):
        pretrained.missing(tmp_path / "pytorch_model.bin")
    weights = tmp_path / safetensors.SINGLE
    shutil.copy(there["huggingface"] / safetensors.SINGLE, weights)
    with refused(FileNotFoundError, "has weights and no config.json"):
        pretrained.describe(tmp_path)
    assert pretrained.missing(tmp_path) == ("config.json",)
    weights.unlink()
    for name in ("one.safetensors", "two.safetensors"):
        shutil.copy(there["rwkv7"], tmp_path / name)
    with refused(ValueError, "several checkpoints: one.safetensors, two.safe.* Name"):
        pretrained.load(tmp_path)

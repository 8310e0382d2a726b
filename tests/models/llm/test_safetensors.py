import json

import ml_dtypes
import numpy as np
import pytest

from models.llm import safetensors


TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones((), np.float16),
    "c": np.array([1.5, -2], ml_dtypes.bfloat16),
    "d": np.zeros((0, 4), np.float64),
    "e": np.array([True, False, True]),
    "f": np.array([-(2**40)]),
}
PLACE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path, tensors):
    described = {
        name: safetensors.Tensor(x.dtype, x.shape, lambda x=x: x)
        for name, x in tensors.items()
    }
    safetensors.write(path, described, {"format": "pt"})
    return path


def raw(path, header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_tensors_of_mixed_types_are_read_as_written(tmp_path):
    found = safetensors.read(write(tmp_path / "x.safetensors", TENSORS))
    assert list(found) == list(TENSORS)
    for name, x in TENSORS.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name], x)


def test_a_file_is_mapped_and_not_read(tmp_path):
    found = safetensors.read(write(tmp_path / "x.safetensors", TENSORS))
    assert isinstance(found["a"], np.memmap)
    assert not found["a"].flags.writeable


def test_a_file_that_was_not_finished_has_no_name(tmp_path):
    def fails():
        raise KeyboardInterrupt

    one = safetensors.Tensor(np.dtype(np.float32), (2,), fails)
    with pytest.raises(KeyboardInterrupt):
        safetensors.write(tmp_path / "x.safetensors", {"a": one}, {})
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_a_header_as_long_as_pickles_begin_is_no_pickle(length, tmp_path):
    text = json.dumps({"a": PLACE}).encode()
    found = safetensors.read(raw(tmp_path / "x", text + b" " * (length - len(text))))
    assert found["a"].tolist() == [0, 0]


def test_shards_are_read_as_one(tmp_path):
    for name, x in TENSORS.items():
        write(tmp_path / f"{name}.safetensors", {name: x})
    index = {"weight_map": {name: f"{name}.safetensors" for name in TENSORS}}
    (tmp_path / safetensors.INDEX).write_text(json.dumps(index))
    assert safetensors.read(tmp_path).keys() == TENSORS.keys()
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 6 shards .*: b\.safe"):
        safetensors.read(tmp_path)


def test_an_index_names_no_file_elsewhere(tmp_path):
    index = {"weight_map": {"a": "../a.safetensors"}}
    (tmp_path / safetensors.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names files elsewhere: \.\./a"):
        safetensors.read(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(content, tmp_path):
    (tmp_path / safetensors.INDEX).write_text(content)
    with pytest.raises(ValueError, match="is no index of safetensors"):
        safetensors.read(tmp_path)


def test_pickles_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no weights: neither model.safe"):
        safetensors.read(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(FileNotFoundError, match=r"only pickles, .*: pytorch_model.bin"):
        safetensors.read(tmp_path)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x04\x95"])
def test_a_pickle_under_another_name_is_refused(start, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(start + bytes(100))
    with pytest.raises(ValueError, match="is a pickle, whatever its name"):
        safetensors.read(path)


@pytest.mark.parametrize("left", [0, 5, 8, 20, -1])
def test_a_file_cut_short_is_refused(left, tmp_path):
    path = write(tmp_path / "x.safetensors", TENSORS)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="cut short"):
        safetensors.read(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": PLACE, "b": PLACE}, "lies: b .* is said to take the bytes 0 to 8"),
        ({"a": PLACE | {"shape": [3]}}, "lies: a of shape"),
        ({"a": PLACE | {"data_offsets": [0, 2**63]}}, "lies: a"),
        ({"a": PLACE | {"data_offsets": [4, 12]}}, "lies: a"),
        ({"a": PLACE | {"shape": [-1, -2]}}, "no shape or place"),
        ({"a": PLACE | {"shape": [2.0]}}, "no shape or place"),
        ({"a": PLACE | {"dtype": "F8_E4M3"}}, "of type F8_E4M3 are not supported"),
        ({"a": {"dtype": "F32"}}, "cannot be read: 'shape'"),
        ({"a": 3}, "cannot be read"),
        ({}, "its tensors take 0 bytes, and there are 8"),
        (b'{"a": 1, "a": 2}', "a name stands twice"),
        (b"[" * 10_000, "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_headers_that_lie_or_cannot_be_read_are_refused(header, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        safetensors.read(raw(tmp_path / "x.safetensors", header))

"""Files of PyTorch: tensors come out, code does not run, and damage has a message."""

import struct
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from models.llm.pth import read
from models.llm.pth_pickle import tensors_of


# --- Pickles as torch writes them, operation by operation


def text(x: str) -> bytes:
    return b"X" + struct.pack("<I", len(x)) + x.encode()


def integer(x: int) -> bytes:
    if -(2**31) <= x < 2**31:
        return b"J" + struct.pack("<i", x)
    return b"\x8a\x0a" + x.to_bytes(10, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


NO_HOOKS = name("collections", "OrderedDict") + b")R"
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
FALSE = b"\x89"


def storage(entries: int, record: str = "0", kind: str = "FloatStorage") -> bytes:
    identity = (text("storage"), name("torch", kind), text(record), text("cpu"))
    return tuple_of(*identity, integer(entries)) + b"Q"


def tensor(stored: bytes, shape, strides, offset: int = 0, hooks=NO_HOOKS) -> bytes:
    shape, strides = (tuple_of(*map(integer, x)) for x in (shape, strides))
    return (
        REBUILD + tuple_of(stored, integer(offset), shape, strides, FALSE, hooks) + b"R"
    )


def dictionary(**items: bytes) -> bytes:
    pairs = b"".join(text(key) + value for key, value in items.items())
    return b"\x80\x02}q\x00(" + pairs + b"u."


SIX = tensor(storage(6), (2, 3), (3, 1))
NUMBERS = np.arange(6, dtype=np.float32)


def written(
    path: Path, program: bytes, how: int = zipfile.ZIP_STORED, **records: bytes
) -> Path:
    records = records or {"0": NUMBERS.tobytes()}
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("model/data.pkl", program)
        archive.writestr("model/byteorder", "little")
        for record, data in records.items():
            archive.writestr(f"model/data/{record}", data)
    return path


# --- What is read


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FloatStorage", np.float32),
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
    ],
)
def test_tensors_are_read_in_their_type(kind, dtype, tmp_path):
    program = dictionary(a=tensor(storage(6, kind=kind), (2, 3), (3, 1)))
    data = NUMBERS.astype(dtype)
    (found,) = read(
        written(tmp_path / "x.pth", program, **{"0": data.tobytes()})
    ).values()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, data.reshape(2, 3))


def test_views_share_a_storage_and_may_be_turned_or_empty(tmp_path):
    program = dictionary(
        whole=SIX,
        turned=tensor(storage(6), (3, 2), (1, 3)),
        part=tensor(storage(6), (2,), (2,), offset=3),
        scalar=tensor(storage(6), (), (), offset=5),
        empty=tensor(storage(6), (0, 3), (3, 1)),
    )
    found = read(written(tmp_path / "x.pth", program))
    whole = NUMBERS.reshape(2, 3)
    expected = (whole, whole.T, NUMBERS[3::2], NUMBERS[5], np.zeros((0, 3)))
    for x, y in zip(found.values(), expected, strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.shape == y.shape


def test_parameters_and_the_versions_of_modules_are_read_past(tmp_path):
    parameter = name("torch._utils", "_rebuild_parameter")
    parameter += tuple_of(SIX, FALSE, NO_HOOKS) + b"R"
    versions = b"}(" + text("_metadata") + NO_HOOKS + b"u"
    program = b"\x80\x02" + NO_HOOKS + text("a") + parameter + b"s" + versions + b"b."
    found = read(written(tmp_path / "x.pth", program))
    np.testing.assert_array_equal(found["a"], NUMBERS.reshape(2, 3))


# --- What is refused


def called(module: str, attribute: str, argument: str) -> bytes:
    return name(module, attribute) + tuple_of(text(argument)) + b"R"


PROOF = "pickle-has-run"
TOUCH = called("os", "system", f"touch {PROOF}")
EVIL = {
    "a call of os.system": (TOUCH + b".", "the name 'os.system'"),
    "of posix": (called("posix", "system", "true") + b".", "'posix.system'"),
    "of eval": (called("builtins", "eval", "1") + b".", "the name 'builtins.eval'"),
    "of getattr, by Python 2's name": (
        called("__builtin__", "getattr", "x") + b".",
        "'__builtin__.getattr'",
    ),
    "among the tensors": (dictionary(a=SIX, b=TOUCH), "the name 'os.system'"),
    "in a tensor's hooks": (
        dictionary(a=tensor(storage(6), (6,), (1,), hooks=TOUCH)),
        "the name 'os.system'",
    ),
    "as a storage's type": (
        dictionary(a=tensor(storage(6, kind="serialization.load"), (6,), (1,))),
        "the name 'torch.serialization.load'",
    ),
    "as a key": (b"\x80\x02}(" + TOUCH + SIX + b"u.", "the name 'os.system'"),
    "by INST": (b"(X\x04\x00\x00\x00trueios\nsystem\n.", "the operation INST"),
    "by OBJ": (b"(" + NO_HOOKS + b"o.", "the operation OBJ"),
    "by NEWOBJ": (NO_HOOKS + b")\x81.", "the operation NEWOBJ"),
    "by STACK_GLOBAL": (
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        "the operation SHORT_BINUNICODE",
    ),
    "by an extension": (b"\x82\x01.", "the operation EXT1"),
    "by a persistent name": (b"Pos.system\n.", "the operation PERSID"),
    "of a known name, with other arguments": (
        REBUILD + tuple_of(text("x")) + b"R.",
        "a call of the name torch._utils._rebuild_tensor_v2 with such",
    ),
    "of a type of storage": (
        name("torch", "FloatStorage") + tuple_of(integer(10**9)) + b"R.",
        "a call of the name torch.FloatStorage",
    ),
    "of what is no name": (b"})R.", "a call of a dict"),
    "hooks that are there": (
        dictionary(
            a=tensor(storage(6), (6,), (1,), hooks=b"}" + text("x") + text("y") + b"s")
        ),
        "a call of the name torch._utils._rebuild_tensor_v2 with such",
    ),
    "attributes": (
        b"}" + b"}" + text("__class__") + text("x") + b"sb.",
        "attributes of a dict",
    ),
    "attributes of a name": (
        REBUILD + b"}" + text("_metadata") + text("x") + b"sb.",
        "attributes of the name",
    ),
    "a number as a key": (b"}" + integer(1) + SIX + b"s.", "an int as a key"),
    "a dictionary in itself": (b"}q\x00" + text("a") + b"h\x00s.", "got a dict as 'a'"),
    "a dictionary of dictionaries": (dictionary(model=b"}"), "a dict as 'model'"),
    "a lone tensor": (SIX + b".", "a dictionary of tensors, got a tensor"),
    "a memo that is not there": (b"h\x07.", "operations do not fit"),
    "a memo of nothing": (b"q\x00.", "operations do not fit"),
    "a stack that runs out": (b"R.", "operations do not fit"),
    "a mark that is not there": (integer(1) + b"t.", "operations do not fit"),
    "items of no dictionary": (b")" + text("a") + SIX + b"s.", "do not fit"),
    "a key without a value": (b"}(" + text("a") + b"u.", "operations do not fit"),
    "no end": (b"\x80\x02}", "is damaged"),
    "an unknown operation": (b"\xff.", "is damaged"),
    "nothing": (b"", "is damaged"),
    "two results": (b"}}.", "is damaged"),
    "a text of 4 GB": (b"X\xff\xff\xff\xffx.", "is damaged"),
    "an integer of 2 GB": (b"\x8b\xff\xff\xff\x7fx.", "is damaged"),
    "something else than a storage": (tuple_of(text("module")) + b"Q.", "no storage"),
}


@pytest.mark.parametrize(("program", "message"), EVIL.values(), ids=EVIL)
def test_a_pickle_that_does_anything_else_is_refused(
    program, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path / "x.pth", program))
    assert [x.name for x in tmp_path.iterdir()] == ["x.pth"]  # nothing has run


def test_a_pickle_that_swells_is_not_unfolded():
    doubled = b")q\x00" + b"h\x00\x86q\x00" * 10_000  # 2**10000 empty tuples
    with pytest.raises(ValueError, match="got a tuple as 'a'"):
        tensors_of(b"}" + text("a") + doubled + b"s.")
    nested = b")" + b"\x85" * 1_000_000
    with pytest.raises(ValueError, match="got a tuple as 'a'"):
        tensors_of(b"}" + text("a") + nested + b"s.")


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "message"),
    [
        ((7,), (1,), 0, "on a storage of 6 entries, beyond which"),
        ((2, 3), (4, 1), 0, "beyond which"),
        ((1,), (1,), 6, "beyond which"),
        ((2**61,), (0,), 0, "beyond which"),  # one entry over and over
        ((2**61,), (1,), 0, "beyond which"),
        ((2**40, 2**40), (0, 0), 0, "beyond which"),
        ((2**70,), (1,), 0, "shape or strides are none"),
        ((-1,), (1,), 0, "shape or strides are none"),
        ((2,), (-1,), 5, "shape or strides are none"),
        ((2,), (1,), -1, "shape or strides are none"),
        ((2, 3), (1,), 0, "shape or strides are none"),
        ((1,) * 9, (1,) * 9, 0, "shape or strides are none"),
    ],
)
def test_a_view_stays_within_its_storage(shape, strides, offset, message):
    program = dictionary(a=tensor(storage(6), shape, strides, offset))
    with pytest.raises(ValueError, match=message):
        tensors_of(program)


def test_a_record_is_as_long_as_the_storage_says(tmp_path):
    path = tmp_path / "x.pth"
    huge = dictionary(a=tensor(storage(2**40), (1,), (1,)))
    for program, records, message in (
        (dictionary(a=SIX), {"0": bytes(23)}, "needs a record of 24 bytes, got 23"),
        (dictionary(a=SIX), {"1": bytes(24)}, "lies in a record '0': not there"),
        (huge, {"0": bytes(24)}, "needs a record of 4398046511104 bytes, got 24"),
    ):
        with pytest.raises(ValueError, match=message):
            read(written(path, program, **records))


# --- Files


def test_a_file_that_is_no_such_zip_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    whole = written(path, dictionary(a=SIX)).read_bytes()
    for content, message in (
        (dictionary(a=SIX), "got a bare pickle, as torch wrote it before 1.6"),
        (b"GGUF", "must be a zip as torch.save writes one, got something else"),
        (b"", "got something else"),
        (whole[:-30], "got a truncated or damaged zip"),
        (whole[:100], "got a truncated or damaged zip"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "y.pth")


def test_a_zip_of_other_things_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", dictionary())
    with pytest.raises(ValueError, match=r"expected one data\.pkl in a folder .* 0"):
        read(path)
    with zipfile.ZipFile(written(path, dictionary()), "a") as archive:
        archive.writestr("other/data.pkl", dictionary(a=TOUCH))
    with pytest.raises(ValueError, match="found 2"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", dictionary())
        archive.writestr("model/byteorder", "big")
    with pytest.raises(ValueError, match="another byte order"):
        read(path)


def test_what_is_compressed_or_too_long_a_list_is_refused(tmp_path):
    path = written(tmp_path / "x.pth", dictionary(), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed or encrypted"):
        read(path)
    with pytest.raises(ValueError, match="must take 16777216 bytes at most"):
        read(written(path, bytes(2**24 + 1)))


def test_damage_anywhere_is_an_error_with_a_message_or_other_numbers(tmp_path):
    path = tmp_path / "x.pth"
    whole = written(path, dictionary(a=SIX, b=SIX)).read_bytes()
    generator = np.random.default_rng(0)
    outcomes = set()
    for _ in range(1000):
        content = bytearray(whole)
        for _ in range(generator.integers(1, 4)):
            content[generator.integers(len(whole))] = generator.integers(256)
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read(path)
            outcomes |= {type(x) for x in found.values()}
        except ValueError:
            outcomes.add(ValueError)
    assert ValueError in outcomes
    assert all(issubclass(x, ValueError | np.ndarray) for x in outcomes)


# --- Beside PyTorch itself


@pytest.mark.parity
def test_what_torch_saves_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pth"
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    x = torch.arange(24.0).reshape(2, 3, 4)
    views = {"x": x, "turned": x.transpose(0, 2), "part": x[1, :, 1:3]}
    types = (torch.float64, torch.float16, torch.bfloat16)
    views |= {str(kind): x.to(kind) for kind in types}
    parameters = dict(module.named_parameters())
    for saved in (module.state_dict(), parameters, views):
        torch.save(saved, path)
        found = read(path)
        assert list(found) == list(saved)
        for key, value in saved.items():
            wide = value.detach().double().numpy()
            np.testing.assert_array_equal(found[key].astype(np.float64), wide)
    torch.save(module, path)
    with pytest.raises(ValueError, match=r"the name 'torch\.nn"):
        read(path)
    torch.save({"step": 3}, path)
    with pytest.raises(ValueError, match="got an int as 'step'"):
        read(path)
    torch.save(views, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="a bare pickle"):
        read(path)

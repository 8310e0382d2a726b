"""GGUF: what files say is computed, and what is wrong with them is said."""

import struct
import time

import gguf_files
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from models.llm import gguf, gguf_config, gguf_file
from models.llm.gguf_blocks import STORAGES, dequantise
from models.llm.transformer import Transformer


LLAMA3 = dict(factor=8.0, low=1.0, high=4.0, original=64)


def computed(path):
    """The logits of our model of a file, for tokens enough to turn every frequency."""
    config, params = gguf.load(path)
    model = Transformer(config)
    tokens = np.random.default_rng(1).integers(0, config.vocabulary, 24)
    of = quick.jit(lambda p, t: model.head(p, model.hidden(p, t)))
    return tokens, np.asarray(of(params, jnp.asarray(tokens)[None])[0])


BIASED = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
MODELS = {
    "llama": dict(),
    "llama with heads of 64": dict(head_dim=64, heads=2, kv_heads=1),
    "llama without kv heads, key length": dict(
        kv_heads=None, key_length=False, heads=2
    ),
    "llama with all biases, untied": dict(
        biases=BIASED,
        tied=False,
    ),
    "llama, linear": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    "qwen2": dict(architecture="qwen2", heads=4, kv_heads=2, head_dim=4),
    "qwen3": dict(architecture="qwen3", head_dim=64, tied=False),
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_logits_are_those_of_the_file_s_tensors_in_float64(tmp_path, options):
    metadata, tensors = gguf_files.tiny(**options)
    path = gguf_files.write(tmp_path / "a.gguf", metadata, tensors)
    tokens, ours = computed(path)
    wanted = gguf_files.logits(metadata, tensors, tokens)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_the_divisors_of_llama_3_are_applied(tmp_path):
    metadata, tensors = gguf_files.tiny(head_dim=64)
    plain = gguf_files.logits(metadata, tensors, [1, 2, 3] * 8)
    divisors = gguf_files.llama3_divisors(100.0, 64, **LLAMA3)
    tensors["rope_freqs.weight"] = divisors
    path = gguf_files.write(tmp_path / "a.gguf", metadata, tensors)
    tokens, ours = computed(path)
    wanted = gguf_files.logits(metadata, tensors, tokens)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    scaled = gguf_files.logits(metadata, tensors, [1, 2, 3] * 8)
    assert np.abs(plain - scaled).max() > 0.1  # it matters here


@pytest.mark.parametrize(
    ("theta", "head_dim", "factor", "original"),
    [(5e5, 128, 8.0, 8192), (5e5, 64, 32.0, 8192), (1e4, 64, 4.0, 2048)],
)
def test_the_numbers_of_llama_3_s_rule_are_recovered(
    tmp_path, theta, head_dim, factor, original
):
    metadata, tensors = gguf_files.tiny(head_dim=head_dim, **{"rope.freq_base": theta})
    tensors["rope_freqs.weight"] = gguf_files.llama3_divisors(
        theta, head_dim, factor, 1.0, 4.0, original
    )
    path = gguf_files.write(tmp_path / "a.gguf", metadata, tensors)
    rope = gguf_config.config(gguf_file.read(path)).rope
    assert (rope.kind, rope.theta, rope.factor) == ("llama3", theta, factor)
    assert (rope.low, rope.high, rope.original) == (1.0, 4.0, original)


def test_divisors_of_another_rule_are_refused(tmp_path):
    metadata, tensors = gguf_files.tiny(head_dim=64)
    tensors["rope_freqs.weight"] = np.linspace(1, 7, 32, dtype=np.float32)
    path = gguf_files.write(tmp_path / "a.gguf", metadata, tensors)
    with pytest.raises(ValueError, match="does not follow Llama 3's rule"):
        gguf.load(path)


@pytest.mark.parametrize("head_dim", [4, 64])
def test_interleaving_the_halves_of_heads_is_undone(head_dim):
    rows = np.arange(3 * head_dim * 5.0).reshape(3 * head_dim, 5)
    halves = rows.reshape(3, 2, head_dim // 2, 5)
    stored = np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(rows.shape)
    assert (gguf.unpermuted(stored, heads=3) == rows).all()


def test_parameters_come_in_the_asked_dtype(tmp_path):
    path = gguf_files.write(tmp_path / "a.gguf", *gguf_files.tiny())
    config, params = gguf.load(path, dtype=jnp.bfloat16)
    assert params["embed"].dtype == params["layers"]["q"].dtype == jnp.bfloat16
    width = config.heads * config.head_dim
    assert params["layers"]["q"].shape == (config.layers, config.width, width)
    assert "head" not in params


def bits(raw, at, index, width=1):
    """Some bits of bytes, counted from the lowest of the first."""
    word = int.from_bytes(raw[at:], "little")
    return word >> index * width & (1 << width) - 1


def slowly(name, raw):
    """The weights of a block, one by one."""
    half = lambda at: struct.unpack_from("<e", raw, at)[0]
    d, m = (half(at) if len(raw) > 3 else 0 for at in (0, 2))
    # Of weight j in blocks of 32 and of 256: which half-byte it is.
    of_32 = lambda at, j: bits(raw, at + j % 16, j // 16, 4)
    of_256 = lambda at, j: bits(raw, at + j // 64 * 32 + j % 32, j // 32 % 2, 4)

    def six(i, first):  # the scale (first: 0) or the minimum (4) of 32 weights
        if i < 4:
            return raw[4 + first + i] & 63
        low = bits(raw, 12 + i - 4, first // 4, 4)
        return low + 16 * (raw[4 + first + i - 4] >> 6)

    def weight(j):
        i = j // 32
        match name:
            case "F32":
                return struct.unpack("<f", raw)[0]
            case "F16":
                return half(0)
            case "BF16":
                return struct.unpack("<f", b"\0\0" + raw)[0]
            case "Q8_0":
                return d * struct.unpack_from("b", raw, 2 + j)[0]
            case "Q4_0":
                return d * (of_32(2, j) - 8)
            case "Q4_1":
                return d * of_32(4, j) + m
            case "Q5_0":
                return d * (of_32(6, j) + 16 * bits(raw, 2, j) - 16)
            case "Q5_1":
                return d * (of_32(8, j) + 16 * bits(raw, 4, j)) + m
            case "Q4_K":
                return d * six(i, 0) * of_256(16, j) - m * six(i, 4)
            case "Q5_K":
                q = of_256(48, j) + 16 * bits(raw, 16 + j % 32, i)
                return d * six(i, 0) * q - m * six(i, 4)
            case "Q6_K":
                part, k = divmod(j, 128)
                low = bits(raw, 64 * part + k % 64, k // 64, 4)
                high = bits(raw, 128 + 32 * part + k % 32, k // 32, 2)
                scale = struct.unpack_from("b", raw, 192 + j // 16)[0]
                return half(208) * scale * (low + 16 * high - 32)

    weights = {"F": 1, "B": 1, "Q": 256 if name.endswith("K") else 32}[name[0]]
    return np.array([weight(j) for j in range(weights)])


@pytest.mark.parametrize("storage", STORAGES.values(), ids=lambda one: one.name)
def test_blocks_are_read_as_one_by_one(storage):
    draw = np.random.default_rng(0)
    raw = draw.integers(0, 256, (24, storage.layout.itemsize), np.uint8)
    # The upper bytes of numbers: small ones, no infinities.
    places = {"F32": [3], "F16": [1], "BF16": [1], "Q6_K": [209]}
    raw[:, places.get(storage.name, [1, 3])] %= 0x40
    ours = dequantise(raw.reshape(-1), storage, (24 * storage.weights,))
    assert ours.dtype == np.float32
    wanted = np.concatenate([slowly(storage.name, one.tobytes()) for one in raw])
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", [2, 3])
def test_quantised_tensors_are_found_where_they_lie(tmp_path, version):
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 60, (4, 34), np.uint8)
    first = draw.normal(size=(3, 5)).astype("f4")
    tensors = {"a": first, "b": (8, (2, 64), blocks.tobytes()), "c": first + 1}
    path = tmp_path / "a.gguf"
    gguf_files.write(path, {"general.alignment": 64}, tensors, version=version)
    with pytest.raises(ValueError, match="not aligned to 64"):
        gguf_file.read(path)
    file = gguf_file.read(gguf_files.write(path, {}, tensors, version=version))
    assert (file.tensor("a") == first).all()
    assert (file.tensor("c") == first + 1).all()
    assert file.tensor("b").shape == (2, 64)
    wanted = [slowly("Q8_0", one.tobytes()) for one in blocks]
    np.testing.assert_allclose(file.tensor("b").reshape(4, 32), wanted, rtol=1e-6)


def patched(raw, at, form, *values):
    """A file with some bytes overwritten."""
    raw = bytearray(raw)
    struct.pack_into(f"<{form}", raw, at, *values)
    return bytes(raw)


def after(raw, name, extra=0):
    """The byte after a name, which stands in the file once, after its length."""
    raw_name = gguf_files.text(name)
    assert raw.count(raw_name) == 1
    return raw.index(raw_name) + len(raw_name) + extra


WHOLE = gguf_files.content(*gguf_files.tiny())
KEY, NAME = "tokenizer.ggml.tokens", "blk.0.attn_q.weight"
RECORD = after(WHOLE, NAME)  # dimensions, 2 sizes, type, offset
VALUE = after(WHOLE, KEY)  # type, type of elements, length
DAMAGED = {
    "empty": (b"", "is empty"),
    "a pickle": (b"\x80\x04" + WHOLE, "no GGUF file"),
    "magic alone": (b"GGUF", "truncated or damaged: the version"),
    "version 1": (patched(WHOLE, 4, "I", 1), "of version 1; .* 2 and 3"),
    "version 9": (patched(WHOLE, 4, "I", 9), "of version 9"),
    "big-endian": (patched(WHOLE, 4, "I", 3 << 24), "big-endian"),
    "tensors without end": (patched(WHOLE, 8, "Q", 2**63), "9223372036854775808 tens"),
    "values without end": (patched(WHOLE, 16, "Q", 2**64 - 1), "551615 values"),
    "one value more": (patched(WHOLE, 16, "Q", WHOLE[16] + 1), "value|damaged"),
    "one tensor more": (patched(WHOLE, 8, "Q", WHOLE[8] + 1), "has|damaged|UTF-8|name"),
    "a long key": (patched(WHOLE, 24, "Q", 2**40), "the name of a value at byte"),
    "a key that wraps around": (patched(WHOLE, 24, "Q", 2**64 - 1), "damaged"),
    "a key of no letters": (patched(WHOLE, 32, "B", 0xFF), "no UTF-8"),
    "an unknown type of value": (patched(WHOLE, VALUE, "I", 13), "of type 13"),
    "arrays in arrays": (patched(WHOLE, VALUE + 4, "I", 9), "array of type 9"),
    "unknown elements": (patched(WHOLE, VALUE + 4, "I", 99), "array of type 99"),
    "a long array": (patched(WHOLE, VALUE + 8, "Q", 2**63 - 1), "807 strings"),
    "a long array of numbers": (
        patched(WHOLE, VALUE + 4, "IQ", 10, 2**61 + 1),
        "of 2305843009213693953 numbers",
    ),
    "a long string": (patched(WHOLE, VALUE + 16, "Q", 2**33), "damaged"),
    "no dimensions": (patched(WHOLE, RECORD, "I", 0), "has 0 dimensions"),
    "many dimensions": (patched(WHOLE, RECORD, "I", 2**31), "has 2147483648 dimen"),
    "a dimension of 0": (patched(WHOLE, RECORD + 4, "Q", 0), "no whole blocks"),
    "a huge dimension": (patched(WHOLE, RECORD + 4, "Q", 2**62), "truncated"),
    "huge dimensions": (patched(WHOLE, RECORD + 4, "QQ", 2**63, 2**63), "truncated"),
    "a type not read": (patched(WHOLE, RECORD + 20, "I", 10), "of type Q2_K; F32, F16"),
    "a type unknown": (patched(WHOLE, RECORD + 20, "I", 999), "of type 999"),
    "a part of a block": (patched(WHOLE, RECORD + 20, "I", 8), "blocks of Q8_0, 32"),
    "unaligned": (patched(WHOLE, RECORD + 24, "Q", 8), "not aligned to 32"),
    "overlapping": (patched(WHOLE, RECORD + 24, "Q", 0), "overlaps"),
    "an offset outside": (patched(WHOLE, RECORD + 24, "Q", 2**40), "is truncated"),
    "an offset that wraps": (patched(WHOLE, RECORD + 24, "Q", 2**64 - 32), "truncated"),
    "without its end": (WHOLE[:-64], "truncated: output_norm.weight ends at"),
    "without its data": (WHOLE[: RECORD + 12], "damaged"),
}


@pytest.mark.parametrize(("raw", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, raw, said):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=said) as error:
        gguf.load(path)
    assert "damaged.gguf" in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 250


def outcome(path, raw):
    """What becomes of a file: nothing but a model or a refusal."""
    path.write_bytes(raw)
    try:
        gguf_config.config(gguf_file.read(path))
    except ValueError as error:
        return "refused" if str(path) in str(error) else "refused without its name"
    return "read"


def test_no_beginning_of_a_file_is_a_file(tmp_path):
    ends = [*range(0, 600, 7), *range(600, len(WHOLE) - 64, 97)]
    found = {outcome(tmp_path / "a.gguf", WHOLE[:end]) for end in ends}
    assert found == {"refused"}


@pytest.mark.parametrize("byte", [0x00, 0x7F, 0xFF])
def test_no_byte_of_the_header_breaks_the_reader(tmp_path, byte):
    start = time.process_time()
    end = WHOLE.index(gguf_files.text("blk.1.attn_q.weight"))
    places = range(0, end, 3)
    found = [
        outcome(tmp_path / "a.gguf", patched(WHOLE, at, "B", byte)) for at in places
    ]
    assert {"read", "refused"} == set(found)
    assert time.process_time() - start < 30


def changed(metadata=(), tensors=(), **options):
    """A tiny model with some things else; None takes one away."""
    whole = gguf_files.tiny(**options)
    for part, changes in zip(whole, (metadata, tensors), strict=True):
        part.update(changes)
        for name in [name for name, value in part.items() if value is None]:
            del part[name]
    return whole


F = np.ones
UNSUPPORTED = {
    "an architecture": (
        changed({"general.architecture": "mamba"}),
        "architecture is 'mamba'; llama, qwen2, qwen3",
    ),
    "experts": (changed({"llama.expert_count": 8}), "mixture of experts"),
    "a window": (changed({"llama.attention.sliding_window": 64}), "sliding window"),
    "a part": (changed({"split.count": 3}), "one of 3 parts"),
    "yarn": (changed({"llama.rope.scaling.type": "yarn"}), "scaling.type is 'yarn'"),
    "part of a head": (changed({"llama.rope.dimension_count": 4}), "4 of a head's 8"),
    "other values": (changed({"llama.attention.value_length": 4}), "different lengths"),
    "no width": (changed({"llama.embedding_length": None}), "lack llama.embedding_len"),
    "a width of 0": (changed({"llama.embedding_length": 0}), "should be at least 1"),
    "a width in words": (changed({"llama.embedding_length": "x"}), "be int, is str"),
    "kv heads": (changed({"llama.attention.head_count_kv": 3}), "do not divide"),
    "theta": (changed({"llama.rope.freq_base": -1.0}), "theta -1.0"),
    "many layers": (changed({"llama.block_count": 2**31}), "2147483648 layers, 20 ten"),
    "a missing tensor": (
        changed(tensors={"blk.1.attn_k.weight": None, "output_norm.weight": None}),
        "missing: blk.1.attn_k.weight, output_norm.weight$",
    ),
    "a tensor too many": (
        changed(tensors={"blk.0.attn_q.scale": F(3, "f4")}),
        "not of this model: blk.0.attn_q.scale$",
    ),
    "a wrong shape": (
        changed(tensors={"blk.1.ffn_up.weight": F((16, 24), "f4")}),
        r"of another shape: blk.1.ffn_up.weight is \(16, 24\), not \(24, 16\)$",
    ),
    "another vocabulary": (
        changed({"tokenizer.ggml.tokens": ["a", "b"]}),
        r"token_embd.weight is \(32, 16\), not \(2, 16\)",
    ),
    "norms that qwen3 needs": (
        changed(tensors={"blk.0.attn_q_norm.weight": None}, architecture="qwen3"),
        "missing: blk.0.attn_q_norm.weight$",
    ),
    "biases of one layer": (
        changed(tensors={"blk.0.attn_q.bias": F(16, "f4")}),
        "missing: blk.0.attn_k.bias, blk.0.attn_v.bias, blk.1",
    ),
}


@pytest.mark.parametrize(("parts", "said"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_is_not_supported_is_named(tmp_path, parts, said):
    path = gguf_files.write(tmp_path / "a.gguf", *parts)
    with pytest.raises(ValueError, match=said):
        gguf.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        gguf.load(tmp_path / "none.gguf")


def test_every_token_that_ends_a_turn_is_known(tmp_path):
    metadata, tensors = gguf_files.tiny()
    start, end = (gguf_files.TOKENS.index(f"<|im_{one}|>") for one in ("start", "end"))
    metadata["tokenizer.ggml.eos_token_id"] = start
    path = gguf_files.write(tmp_path / "a.gguf", metadata, tensors)
    assert gguf_config.config(gguf_file.read(path)).end_tokens == (start, end)

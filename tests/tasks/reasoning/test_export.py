"""A run of a language model, written as the files that people have them in."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import quick

import eggroll
from eggroll.perturbation.layout import Layout
from eggroll.task import Export
from models.llm import rwkv7_checkpoint, safetensors
from models.llm.adapter import merged, read
from models.llm.checkpoint import load
from models.llm.rwkv7 import RWKV7
from models.llm.rwkv7_config import RWKV7Config
from models.llm.transformer import Transformer
from tasks.reasoning.export import export


TIED = parity.CASES["qwen3"]
BIASED = parity.CASES["llama-biases"]


def checkpoint(path, fields, **files):
    parity.put(path, fields, parity.weights(fields))
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content)
    config, params = load(path)
    return Transformer(config), params


def wanted(directory, format, params, start=None, **more):
    directory.mkdir()
    return Export(format, directory, params, lambda: start, **more)


def equal(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, **tolerance)
    jax.tree.map(close, a, b)


def change(params, rank, **more):
    """The parameters and a product of a rank, for `q`; and what else is given."""
    layers = params["layers"]
    shape = layers["q"].shape
    random = np.random.default_rng(0)
    left, right = (random.normal(size=(shape[0], n, rank)) for n in shape[1:])
    moved = layers["q"] + jnp.asarray(0.1 * left @ right.swapaxes(1, 2), jnp.float32)
    return params | {"layers": layers | {"q": moved} | more}


def test_hf_is_what_was_learnt_beside_what_its_makers_published(tmp_path):
    files = {"tokenizer__json": "{1}", "generation_config__json": '{"top_k": 3}'}
    fields = TIED | {"bos_token_id": 11}
    model, params = checkpoint(tmp_path / "a", fields, **files)
    learnt = jax.tree.map(lambda x: 2 * x, params)
    said = export(wanted(tmp_path / "b", "hf", learnt), model, tmp_path / "a")
    assert said == ["with generation_config.json, tokenizer.json"]
    config, found = load(tmp_path / "b")
    assert config == model.config
    equal(found, learnt)
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{1}"
    described = json.loads((tmp_path / "b" / "config.json").read_text())
    assert described["bos_token_id"] == 11


def test_the_tokenizer_comes_from_where_it_is_or_is_missed(tmp_path):
    model, params = checkpoint(tmp_path / "a", TIED)
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text("{2}")
    export(wanted(tmp_path / "b", "hf", params), model, tmp_path / "a", other)
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{2}"
    gguf = tmp_path / "model.gguf"
    (said,) = export(wanted(tmp_path / "c", "hf", params), model, gguf)
    assert said == f"without a tokenizer, which {gguf} has none of: copy one beside it"
    equal(load(tmp_path / "c")[1], params)


def test_safetensors_have_the_published_names(tmp_path):
    model, params = checkpoint(tmp_path / "a", TIED, tokenizer__json="{}")
    export(wanted(tmp_path / "b", "safetensors", params), model, tmp_path / "a")
    names = {x.name for x in (tmp_path / "b").iterdir()}
    assert names == {"config.json", "model.safetensors"}
    equal(load(tmp_path / "b")[1], params)


def test_the_adapter_of_a_member_is_the_member(tmp_path):
    model, params = checkpoint(tmp_path / "a", TIED)
    use = lambda p: model.head(p, model.hidden(p, jnp.asarray(parity.tokens())))
    rules = dict.fromkeys(("norm", "layers/*_norm"), eggroll.frozen)
    es = eggroll.EvolutionStrategy(population=4, sigma=0.1, rank=2, rules=rules)
    generation = es.generation(use)(params, jax.random.key(0))
    run = quick.jit(
        lambda i: (es.factors(generation, i), es.member(generation, params, i))
    )
    factors, member = run(3)
    what = wanted(tmp_path / "b", "lora", member, factors=factors)
    assert "do not merge it" in export(what, model, tmp_path / "a")[0]
    equal(merged(params, read(tmp_path / "b", model.config)), member, atol=1e-6)
    described = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(tmp_path / "a")


def test_a_member_that_has_norms_of_its_own_is_no_adapter(tmp_path):
    model, params = checkpoint(tmp_path / "a", TIED)
    layout = Layout("norm", params["norm"].shape, "float32", eggroll.full_rank())
    norm = eggroll.Factors(params["norm"], None, jnp.float32(0.1), layout)
    what = wanted(tmp_path / "b", "lora", params, factors={"norm": norm, "head": None})
    with pytest.raises(
        ValueError, match="norm changed otherwise: freeze them by a rule"
    ):
        export(what, model, tmp_path / "a")


def test_what_was_learnt_is_an_adapter_where_its_rank_is_no_higher(tmp_path):
    model, params = checkpoint(tmp_path / "a", BIASED)
    learnt = change(params, rank=3)
    what = wanted(tmp_path / "b", "lora", learnt, params, rank=3)
    said = export(what, model, tmp_path / "a")
    assert said[0] == "rank 3 holds, of the squared norm of the change in:"
    assert [x.split() for x in said[1:]] == [
        ["layers/q", "1.0000"],
        ["all", "of", "it", "1.0000"],
    ]
    found = read(tmp_path / "b", model.config)
    assert {*found} == {"layers/q"}
    equal(merged(params, found), learnt, atol=2e-6)


def test_of_what_a_rank_cannot_hold_the_share_is_told(tmp_path):
    model, params = checkpoint(tmp_path / "a", BIASED)
    learnt = change(params, rank=4)
    said = export(
        wanted(tmp_path / "b", "lora", learnt, params, rank=2), model, tmp_path
    )
    found = merged(params, read(tmp_path / "b", model.config))["layers"]["q"]
    whole, rest = (
        float(np.sum((learnt["layers"]["q"] - x) ** 2))
        for x in (params["layers"]["q"], found)
    )
    assert float(said[1].split()[1]) == pytest.approx(1 - rest / whole, abs=1e-4)
    assert 0.3 < 1 - rest / whole < 0.95


def test_an_update_that_an_adapter_cannot_hold_is_refused(tmp_path):
    model, params = checkpoint(tmp_path / "a", BIASED)
    bias = params["layers"]["q_bias"] + 1
    learnt = change(params, 1, q_bias=bias)
    with pytest.raises(ValueError, match="layers/q_bias changed otherwise: freeze"):
        export(wanted(tmp_path / "b", "lora", learnt, params), model, tmp_path)
    with pytest.raises(ValueError, match="nothing has changed since the run started"):
        export(wanted(tmp_path / "c", "lora", params, params), model, tmp_path)


def test_rwkv_7_goes_out_by_its_published_names_alone(tmp_path):
    config = RWKV7Config(
        width=16,
        layers=2,
        heads=2,
        feedforward=32,
        vocabulary=20,
        decay_rank=4,
        rate_rank=4,
        value_rank=4,
        gate_rank=4,
        layer0_values=True,
    )
    model = RWKV7(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    random = np.random.default_rng(0)
    draw = lambda x: random.normal(size=x.shape).astype(np.float32)
    params = jax.tree.map(draw, shapes)
    export(wanted(tmp_path / "a", "safetensors", params), model, tmp_path)
    path = tmp_path / "a" / "model.safetensors"
    assert "blocks.1.att.receptance.weight" in safetensors.read(path)
    found, again = rwkv7_checkpoint.read(path)
    assert found == config
    equal(again, params)
    for format in ("hf", "lora"):
        with pytest.raises(ValueError, match="RWKV7 has no such files: --format safet"):
            export(wanted(tmp_path / format, format, params), model, tmp_path)

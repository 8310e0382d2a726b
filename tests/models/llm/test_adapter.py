import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from models.llm import safetensors
from models.llm.adapter import CONFIG, WEIGHTS, merged, places, read, write
from models.llm.config import from_huggingface
from models.llm.names import plan
from models.llm.transformer import Transformer


TIED = from_huggingface(parity.CASES["qwen2"])
UNTIED = from_huggingface(parity.CASES["llama-linear"])
Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


def shapes(config):
    leaves = {"/".join(leaf.path): leaf.shape for leaf in plan(config)}
    return {place.path: leaves[place.path] for place in places(config)}


def factors(config, rank=2):
    random = np.random.default_rng(0)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)
    return {
        path: (draw(*layers, rows, rank), draw(*layers, columns, rank))
        for path, (*layers, rows, columns) in shapes(config).items()
    }


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, pair in found.items():
        for a, b in zip(pair, expected[name], strict=True):
            np.testing.assert_array_equal(a, b)


def change(directory, **fields):
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("config", [TIED, UNTIED], ids=["tied", "untied"])
def test_what_is_written_is_read_as_it_was(config, tmp_path):
    given = factors(config)
    write(tmp_path / "a", config, given, base="some/model")
    equal(read(tmp_path / "a", config), given)


def test_it_stands_as_peft_has_it(tmp_path):
    given = factors(TIED, rank=3)
    write(tmp_path, TIED, given, base="some/model")
    tensors = safetensors.read(tmp_path / WEIGHTS)
    left, right = given["layers/q"]
    np.testing.assert_array_equal(tensors[Q.format(1, "A")], left[1].T)
    np.testing.assert_array_equal(tensors[Q.format(1, "B")], right[1])
    fields = json.loads((tmp_path / CONFIG).read_text())
    assert (fields["r"], fields["lora_alpha"]) == (3, 3)
    assert fields["base_model_name_or_path"] == "some/model"
    projections = [f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")]
    assert fields["target_modules"] == sorted([*projections, "embed_tokens", "lm_head"])


def test_leaves_of_lower_rank_are_filled_up_with_zeros(tmp_path):
    given = {"layers/q": factors(TIED, 3)["layers/q"]}
    given["layers/up"] = factors(TIED, 1)["layers/up"]
    write(tmp_path, TIED, given, base="")
    found = read(tmp_path, TIED)
    equal({"layers/q": found["layers/q"]}, {"layers/q": given["layers/q"]})
    for x, narrow in zip(found["layers/up"], given["layers/up"], strict=True):
        np.testing.assert_array_equal(x[..., :1], narrow)
        assert x.shape[-1] == 3
        assert not x[..., 1:].any()


def test_merged_adds_the_products_in_the_type_of_the_parameters():
    params = jax.eval_shape(Transformer(TIED).init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.ones(x.shape, jnp.bfloat16), params)
    given = factors(TIED)
    del given["embed"]
    found = merged(params, given)
    left, right = given["layers/k"]
    expected = (1 + left @ right.swapaxes(1, 2)).astype(jnp.bfloat16)
    close = dict(atol=2**-5, rtol=2**-7)
    np.testing.assert_allclose(
        *(np.float32(x) for x in (found["layers"]["k"], expected)), **close
    )
    assert found["embed"] is params["embed"]
    assert found["layers"]["k"].dtype == jnp.bfloat16


def test_lora_alpha_and_its_root_scale_what_is_read(tmp_path):
    given = factors(UNTIED)
    write(tmp_path, UNTIED, given, base="")
    change(tmp_path, lora_alpha=8)
    double = lambda by: {name: (a, by * b) for name, (a, b) in given.items()}
    equal(read(tmp_path, UNTIED), double(4))
    change(tmp_path, use_rslora=True)
    found = read(tmp_path, UNTIED)["layers/q"][1]
    np.testing.assert_allclose(found, double(8 / 2**0.5)["layers/q"][1], rtol=1e-6)


def test_layers_that_an_adapter_leaves_alone_have_zeros(tmp_path):
    write(tmp_path, UNTIED, factors(UNTIED), base="")
    tensors = dict(safetensors.read(tmp_path / WEIGHTS))
    kept = {k: np.array(x) for k, x in tensors.items() if "layers.0.self_attn.q" in k}
    safetensors.write(tmp_path / WEIGHTS, described(kept), {})
    found = read(tmp_path, UNTIED)
    assert {*found} == {"layers/q"}
    for x, given in zip(found["layers/q"], factors(UNTIED)["layers/q"], strict=True):
        np.testing.assert_array_equal(x[0], given[0])
        assert not x[1].any()


def described(tensors):
    return {
        name: safetensors.Tensor(x.dtype, x.shape, lambda x=x: x)
        for name, x in tensors.items()
    }


def test_what_an_adapter_cannot_hold_is_named(tmp_path):
    given = factors(UNTIED)
    vector = np.ones((4, 1))
    message = r"products of factors, and layers/q, norm changed otherwise: freeze them"
    with pytest.raises(ValueError, match=message):
        write(
            tmp_path / "a",
            UNTIED,
            given | {"norm": (vector,) * 2, "layers/q": None},
            base="",
        )
    with pytest.raises(ValueError, match="factors of one leaf at least"):
        write(tmp_path / "a", UNTIED, {}, base="")
    wrong = {"layers/q": given["layers/k"]}
    with pytest.raises(ValueError, match=r"layers/q has factors of shapes .* expected"):
        write(tmp_path / "a", UNTIED, wrong, base="")
    assert not (tmp_path / "a").exists()


def test_an_adapter_is_not_written_over_another(tmp_path):
    write(tmp_path, UNTIED, factors(UNTIED), base="")
    with pytest.raises(FileExistsError, match="holds an adapter already"):
        write(tmp_path, UNTIED, factors(UNTIED), base="")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "not supported: peft_type 'IA3'"),
        ({"use_dora": True, "bias": "all"}, "bias 'all', use_dora True"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"r": 0}, "needs numbers for r and lora_alpha, got 0 and 2"),
    ],
)
def test_adapters_that_are_more_than_products_are_refused(fields, message, tmp_path):
    write(tmp_path, UNTIED, factors(UNTIED), base="")
    change(tmp_path, **fields)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, UNTIED)


def test_the_adapter_of_another_model_is_refused(tmp_path):
    write(tmp_path / "a", TIED, factors(TIED), base="")
    with pytest.raises(ValueError, match=r"expected .*lora_embedding_A .*\(r, 97\)"):
        read(tmp_path / "a", UNTIED)
    more = TIED.__class__(**{**vars(TIED), "layers": 3})
    write(tmp_path / "b", more, factors(more), base="")
    with pytest.raises(
        ValueError, match=r"adapts what this model has not: .*layers\.2"
    ):
        read(tmp_path / "b", TIED)


def test_a_tied_embedding_that_is_adapted_alone_is_refused(tmp_path):
    write(tmp_path, TIED, factors(TIED), base="")
    tensors = {k: np.array(x) for k, x in safetensors.read(tmp_path / WEIGHTS).items()}
    kept = {k: x for k, x in tensors.items() if "lm_head" not in k}
    safetensors.write(tmp_path / WEIGHTS, described(kept), {})
    with pytest.raises(ValueError, match=r"in two ways\. Untie the model first"):
        read(tmp_path, TIED)

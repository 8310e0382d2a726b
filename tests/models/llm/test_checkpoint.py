import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import parity
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.llm import safetensors
from models.llm.checkpoint import load, save
from models.llm.generation import GREEDY, Sampling
from models.llm.names import OUTSIDE
from models.llm.settings import generation_settings


FIELDS = parity.CASES["qwen2"]  # tied
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def tensors():
    return parity.weights(FIELDS)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_matrices_stand_as_inputs_by_outputs(tensors, tmp_path):
    _, params = load(parity.put(tmp_path, FIELDS, tensors))
    np.testing.assert_array_equal(params["layers"]["q"][0], tensors[Q].T)
    np.testing.assert_array_equal(params["embed"], tensors[OUTSIDE["embed"]])


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
@pytest.mark.parametrize("name", parity.CASES)
def test_what_is_saved_is_loaded_as_it_was(name, shard_bytes, tmp_path):
    fields = parity.CASES[name]
    config, params = load(parity.put(tmp_path / "a", fields, parity.weights(fields)))
    save(tmp_path / "b", config, params, shard_bytes=shard_bytes, fields={"my": 1})
    again, found = load(tmp_path / "b")
    assert again == config
    equal(found, params)
    assert (tmp_path / "b" / safetensors.SINGLE).exists() == (shard_bytes == 10**9)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["my"] == 1


def test_mixed_types_are_read_in_the_widest_or_as_asked(tensors, tmp_path):
    tensors[Q] = tensors[Q].astype(ml_dtypes.bfloat16)
    directory = parity.put(tmp_path, FIELDS, tensors)
    _, params = load(directory)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(
        params["layers"]["q"][0], tensors[Q].T.astype(np.float32)
    )
    _, half = load(directory, dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    equal(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))


def test_weights_are_read_into_their_shardings(tensors, tmp_path):
    directory = parity.put(tmp_path, FIELDS, tensors)
    _, params = load(directory)
    mesh = Mesh(np.array(jax.devices()[:1]), ("model",))
    spread = NamedSharding(mesh, PartitionSpec(None, "model"))
    whole = NamedSharding(mesh, PartitionSpec())
    of = lambda x: spread if x.ndim > 1 else whole
    _, found = load(directory, shardings=jax.tree.map(of, params))
    equal(found, params)
    assert found["layers"]["q"].sharding == spread
    assert found["norm"].sharding == whole
    _, found = load(directory, shardings=whole)
    equal(found, params)


def test_a_head_that_differs_is_kept_though_the_flag_says_tied(tensors, tmp_path):
    embed = tensors[OUTSIDE["embed"]]
    same = tensors | {OUTSIDE["head"]: embed}
    config, params = load(parity.put(tmp_path / "a", FIELDS, same))
    assert config.tied
    assert "head" not in params
    other = tensors | {OUTSIDE["head"]: 2 * embed}
    config, params = load(parity.put(tmp_path / "b", FIELDS, other))
    assert not config.tied
    np.testing.assert_array_equal(params["head"], 2 * embed.T)


def test_what_is_missing_unknown_and_mis_shaped_is_listed(tensors, tmp_path):
    del tensors["model.norm.weight"]
    tensors["model.surprise"] = np.zeros(3, np.float32)
    tensors[Q] = tensors[Q][:-1]
    message = (
        r"lack model\.norm\.weight; they have unknown model\.surprise; they have "
        rf"mis-shaped {Q} \(47, 48\) instead of \(48, 48\)"
    )
    with pytest.raises(ValueError, match=message):
        load(parity.put(tmp_path, FIELDS, tensors))


def test_long_lists_are_cut(tmp_path):
    with pytest.raises(ValueError, match=r"lack .* and 18 more"):
        load(parity.put(tmp_path, FIELDS, {"x": np.zeros(1, np.float32)}))


def test_quantised_weights_are_refused(tensors, tmp_path):
    tensors[Q] = tensors[Q].astype(np.int8)
    with pytest.raises(ValueError, match=r"quantised or integer .*q_proj.* \(int8\)"):
        load(parity.put(tmp_path, FIELDS, tensors))


def test_frequencies_of_older_files_are_no_weights(tensors, tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load(parity.put(tmp_path, FIELDS, tensors | {name: np.zeros(6, np.float32)}))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        load(tmp_path)


def test_weights_are_not_written_beside_others(tensors, tmp_path):
    config, params = load(parity.put(tmp_path, FIELDS, tensors))
    with pytest.raises(FileExistsError, match=r"already: model\.safetensors"):
        save(tmp_path, config, params)


def test_parameters_of_another_model_are_not_written(tensors, tmp_path):
    config, params = load(parity.put(tmp_path / "a", FIELDS, tensors))
    wrong = params | {"norm": params["norm"][:-1], "head": params["embed"].T}
    message = r"head is \(48, 97\) instead of None, norm is \(47,\) instead of \(48,\)"
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "b", config, wrong)
    assert not (tmp_path / "b").exists()


def test_what_their_makers_say_of_generation_is_told(tensors, tmp_path):
    assert generation_settings(tmp_path) == ((), GREEDY, {})
    fields = {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "length_penalty": 1.0,  # nothing that would change
        "num_beams": None,
        "eos_token_id": [3, 5],
        "pad_token_id": 3,
    }
    parity.put(tmp_path, FIELDS, tensors)
    (tmp_path / "generation_config.json").write_text(json.dumps(fields))
    found = generation_settings(tmp_path)
    assert found.sampling == Sampling(0.7, 0.8)
    assert found.ignored == {"top_k": 20, "repetition_penalty": 1.1}
    assert load(tmp_path)[0].end_tokens == (3, 5)

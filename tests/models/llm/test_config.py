import dataclasses

import parity
import pytest

from models.llm.config import Rope, TransformerConfig, from_huggingface, to_huggingface


FIELDS = parity.SMALL | {"model_type": "llama", "hidden_size": 32}
QWEN3 = FIELDS | {"model_type": "qwen3"}


@pytest.mark.parametrize("name", parity.CASES)
def test_what_is_written_is_read_as_it_was(name):
    config = from_huggingface(parity.CASES[name])
    assert from_huggingface(to_huggingface(config)) == config


def test_missing_fields_mean_what_they_mean_to_transformers():
    assert from_huggingface(FIELDS).kv_heads == 4
    assert from_huggingface(FIELDS).head_dim == 8
    assert from_huggingface(FIELDS).end_tokens == (2,)
    wide = QWEN3 | {"num_attention_heads": 64}
    assert from_huggingface(wide).kv_heads == 32
    assert from_huggingface(wide | {"num_key_value_heads": None}).kv_heads == 64
    assert from_huggingface(wide).head_dim == 128
    assert from_huggingface(wide).end_tokens == ()
    assert from_huggingface(wide).rope == Rope(10_000.0)


def test_qwen2_has_biases_unasked_and_the_others_where_they_say():
    qwen2 = from_huggingface(FIELDS | {"model_type": "qwen2", "num_key_value_heads": 4})
    assert (qwen2.attention_bias, qwen2.output_bias, qwen2.mlp_bias) == (1, 0, 0)
    both = FIELDS | {"attention_bias": True, "mlp_bias": True}
    llama = from_huggingface(both)
    assert (llama.attention_bias, llama.output_bias, llama.mlp_bias) == (1, 1, 1)


def test_end_tokens_are_one_or_several():
    of = lambda x: from_huggingface(FIELDS | {"eos_token_id": x}).end_tokens
    assert of(7) == (7,)
    assert of([7, 9]) == (7, 9)
    assert of(None) == ()


def test_theta_stands_in_either_place():
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    old = {"rope_theta": 5e5, "rope_scaling": None}
    assert from_huggingface(FIELDS | new).rope == Rope(5e5)
    assert from_huggingface(FIELDS | old).rope == Rope(5e5)


@pytest.mark.parametrize("windows", [False, None])
def test_a_window_that_is_not_used_is_full_attention(windows):
    fields = {"use_sliding_window": windows, "sliding_window": 8}
    from_huggingface(QWEN3 | {"num_key_value_heads": 4} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "gemma3"}, "type 'gemma3' are not supported: llama, qwen2"),
        ({"model_type": None}, "type None are not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu' is not supported: silu"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "RoPE of type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2}}, "type 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "llama3 lacks factor, low"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor of 0.5"),
        ({"layer_types": ["sliding_attention"] * 2}, "sliding_attention are not"),
        ({"hidden_size": None}, "config.json lacks hidden_size"),
        ({"num_key_value_heads": 3}, "4 heads do not divide .* 3"),
        ({"vocab_size": 0}, "positive integers: {'vocab_size': 0}"),
        ({"num_key_value_heads": 0}, "positive integers: {'kv_heads': 0}"),
        ({"num_attention_heads": 0}, "integers: {'num_attention_heads': 0}"),
        ({"hidden_size": "32"}, "positive integers: {'hidden_size': '32'}"),
        ({"head_dim": 7}, "head_dim must be even"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        from_huggingface(FIELDS | fields)


def test_a_window_that_is_used_is_refused():
    fields = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    with pytest.raises(ValueError, match="sliding_attention are not supported"):
        from_huggingface(QWEN3 | fields)


def test_options_that_no_architecture_has_are_not_written():
    config = from_huggingface(FIELDS)
    assert isinstance(config, TransformerConfig)
    with pytest.raises(ValueError, match=r"No architecture .* 'output_bias': True"):
        to_huggingface(dataclasses.replace(config, output_bias=True))

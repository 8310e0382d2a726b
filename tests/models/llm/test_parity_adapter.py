"""`peft` on the base with our adapter, and our member; see `test_parity`."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import quick

import eggroll
from models.llm.adapter import merged, read, write
from models.llm.checkpoint import load
from models.llm.transformer import Transformer


pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    for name in ("torch", "transformers", "peft"):
        pytest.importorskip(name)


@pytest.mark.parametrize("name", parity.CASES)
def test_their_logits_with_our_adapter_are_those_of_our_member(name, tmp_path):
    import peft

    fields = parity.CASES[name]
    base = parity.put(tmp_path / "base", fields, parity.weights(fields))
    config, params = load(base)
    model = Transformer(config)
    logits = lambda p: model.head(p, model.hidden(p, jnp.asarray(parity.tokens())))
    is_vector = lambda path, x: x.ndim < 2 + (path[0].key == "layers")
    frozen = jax.tree_util.tree_flatten_with_path(params)[0]
    frozen = ["/".join(k.key for k in path) for path, x in frozen if is_vector(path, x)]
    es = eggroll.EvolutionStrategy(
        population=4,
        sigma=0.02,
        rank=2,
        noise="gaussian",
        rules=dict.fromkeys(frozen, eggroll.frozen),
    )
    generation = es.generation(logits)(params, jax.random.key(1))
    found = jax.tree.leaves(
        es.factors(generation, 3), is_leaf=lambda x: isinstance(x, eggroll.Factors)
    )
    factors = {x.path: (x.left, x.multiplier * x.right) for x in found}
    write(tmp_path / "adapter", config, factors, base=str(base))

    theirs = peft.PeftModel.from_pretrained(parity.theirs(base), tmp_path / "adapter")
    run = quick.jit(logits)
    member = run(es.member(generation, params, 3))
    close = lambda x: np.testing.assert_allclose(x, member, atol=1e-4, rtol=0)
    close(parity.their_logits(theirs, parity.tokens()))
    if not config.tied:  # theirs adds to a tied matrix twice
        close(parity.their_logits(theirs.merge_and_unload(), parity.tokens()))
    close(run(merged(params, read(tmp_path / "adapter", config))))
    assert np.abs(member - run(params)).max() > 0.1


def test_an_adapter_that_they_trained_is_read(tmp_path):
    import peft
    import torch

    fields = parity.CASES["llama"]
    base = parity.put(tmp_path / "base", fields, parity.weights(fields))
    how = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj", "embed_tokens"]
    )
    theirs = peft.get_peft_model(parity.theirs(base), how)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, x in theirs.named_parameters():
            if "lora_" in name:
                x.copy_(0.1 * torch.randn_like(x))
    theirs.eval().save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    config, params = load(base)
    model = Transformer(config)
    ours = merged(params, read(tmp_path / "adapter", config))
    found = quick.jit(lambda p: model.head(p, model.hidden(p, parity.tokens())))(ours)
    expected = parity.their_logits(theirs, parity.tokens())
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)

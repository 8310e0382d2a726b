"""What docs/llm.md shows runs as it stands there."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import quick


DOCUMENT = Path(__file__).parents[3] / "docs" / "llm.md"


BLOCKS = re.findall(
    r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S
)


@pytest.fixture(scope="module")
def found():
    """What the blocks leave behind, run one after the other."""
    scope: dict = {}
    for code in BLOCKS:
        exec(compile(code, str(DOCUMENT), "exec"), scope)
    return scope


@pytest.mark.slow
def test_the_first_example_of_the_document_runs(found):
    assert found["answers"].tokens.shape == (64, 2, 4)
    assert found["value"] < 0
    for leaf in jax.tree.leaves(found["grads"]):
        assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_what_a_server_scores_is_learnt_as_what_is_evaluated_in_process(found):
    es, key = found["matrices"], jax.random.key(3)
    ask = quick.jit(es.ask(found["likelihood"]))
    fitness, generation = ask(found["params"], key)
    np.testing.assert_allclose(found["fitness"], fitness, rtol=1e-4)
    assert np.std(fitness) > 1e-3
    expected = es.gradient(generation, fitness)
    for name in ("q", "down"):
        a, b = (x["layers"][name] for x in (found["served"], expected))
        np.testing.assert_allclose(a, b, atol=1e-2 * np.abs(b).max())


@pytest.mark.slow
def test_weights_of_eight_bits_stay_so(found):
    assert found["whole"]["layers"]["q"]["int8"].dtype == np.int8
    assert found["state"].count == 1

"""What docs/llm.md shows runs as it stands there."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest


DOCUMENT = Path(__file__).parents[3] / "docs" / "llm.md"


@pytest.mark.slow
def test_the_example_of_the_document_runs():
    (code,) = re.findall(
        r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S
    )
    found: dict = {}
    exec(compile(code, str(DOCUMENT), "exec"), found)
    assert found["answers"].tokens.shape == (64, 2, 4)
    assert found["value"] < 0
    for leaf in jax.tree.leaves(found["grads"]):
        assert np.isfinite(leaf).all()

"""The rules by which a Transformer is divided fit its parameters."""

import jax
import pytest
import tiny_llm
from jax.sharding import PartitionSpec as P

import eggroll
from models.llm.partition import transformer
from models.llm.transformer import Transformer


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
@pytest.mark.parametrize("tied", [True, False])
def test_each_matrix_is_divided_and_nothing_else(tied):
    model = Transformer(tiny_llm.config(tied=tied))
    params = jax.eval_shape(model.init, jax.random.key(0))
    mesh = eggroll.population_mesh(jax.devices()[:8], model=2)
    lies = eggroll.shardings(params, mesh, transformer(params))
    whole = {name for name, x in lies["layers"].items() if x.spec == P()}
    assert whole == {name for name, x in params["layers"].items() if x.ndim < 3}
    assert lies["embed"].spec == P("model")
    assert lies["norm"].spec == P()
    assert tied or lies["head"].spec == P(None, "model")

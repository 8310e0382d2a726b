import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll.integer import compilation
from models.egg import Egg


def twice(x):
    return jax.lax.optimization_barrier(x + x)


def test_results_are_those_of_jit():
    x = jnp.arange(5)
    np.testing.assert_array_equal(compilation.jit(twice)(x), jax.jit(twice)(x))


def test_where_xla_refuses_the_options_it_goes_the_usual_way(monkeypatch):
    monkeypatch.setattr(compilation, "KEEPING", {"no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        jax.jit(twice, compiler_options=compilation.KEEPING)(1)
    compiled = compilation.jit(twice)
    with pytest.warns(UserWarning, match="twice with its barriers kept.*no_such_opt"):
        assert int(compiled(1)) == 2
    assert int(compiled(2)) == 4  # and says it once


def test_mistakes_of_the_function_come_up():
    with pytest.raises(TypeError, match="add got incompatible shapes"):
        compilation.jit(lambda x: x + jnp.ones(3))(jnp.ones(2))


@pytest.mark.filterwarnings("ignore:XLA does not compile")  # JAX 0.12 does not
def test_a_loop_over_single_tokens_compiles():
    model = Egg(1, 16)
    params = model.init(jax.random.key(0))

    def read(params, tokens):
        step = lambda state, token: model.step(params, state, token)
        return jax.lax.scan(step, model.initial_state(), tokens)[1]

    tokens = jnp.arange(5, dtype=jnp.uint8)
    for one, other in zip(
        compilation.jit(read)(params, tokens), read(params, tokens), strict=True
    ):
        np.testing.assert_array_equal(one, other)

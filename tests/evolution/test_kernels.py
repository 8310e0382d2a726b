"""What keeps compilers from making a kernel for each leaf, and that it does."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import eggroll
from benchmarks import compilation
from eggroll.evolution import kernels


def test_what_is_kept_stays_as_it_is_to_the_bit():
    values = {
        "weights": jnp.array([1.5, -0.0, jnp.nan, jnp.inf]),
        "factor": jnp.float32(1e-42),
        "none": jnp.zeros((0, 2), jnp.int8),
    }
    for same in (kernels.kept, jax.jit(kernels.kept)):
        for x, y in zip(*map(jax.tree.leaves, (values, same(values))), strict=True):
            assert x.dtype == y.dtype
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_hidden_numbers_are_what_they_were():
    numbers = [0, 3, 2**31]
    found = jax.jit(lambda: kernels.hidden(numbers))()
    assert [int(x) for x in found] == numbers


def test_layers_alike_share_the_kernels_that_draw_and_contract_their_noise():
    def kinds(layers: int) -> int:
        params = [{"w": jnp.ones((6, 5)), "b": jnp.ones(5)} for _ in range(layers)]
        es = eggroll.EvolutionStrategy(4, sigma=0.1)
        use = lambda params: sum((jnp.ones(6) @ p["w"] + p["b"]).sum() for p in params)
        generation = es.generation(use)(params, jax.random.key(0))
        update = jax.jit(es.gradient).lower(generation, jnp.arange(4.0))
        return _kinds(update.compile().as_text() or "")

    assert kinds(6) <= kinds(2)


def test_what_is_drawn_for_members_serves_their_update_where_all_go_at_once():
    def drawn(**how) -> int:
        es = eggroll.EvolutionStrategy(16, sigma=0.1, **how)
        run = jax.jit(es.value_and_grad(lambda w: jnp.sum((jnp.ones(6) @ w) ** 2)))
        with uncached():
            compiled = run.lower(jnp.ones((6, 5)), jax.random.key(0)).compile()
        blocks = re.findall(
            r"= \(s32\[\], u32\[8,1,.* while\(", compiled.as_text() or ""
        )
        return len(blocks)

    assert drawn() == 1
    assert drawn(chunk_size=8) == 2


@contextlib.contextmanager
def uncached():
    """Programs are compiled, whatever an earlier test has kept of them."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # which had read the setting
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _kinds(hlo: str) -> int:
    """How many fused computations there are that differ by more than their names."""
    bodies = re.findall(r"^%fused_computation\S* .*?^}", hlo, re.M | re.S)
    nameless = lambda x: re.sub(r"metadata=\{[^}]*\}|%[\w.\-]+|param_[\w.]+", "", x)
    return len({nameless(body) for body in bodies})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layers", "most"),
    # (39, 4 to 6 and 9 to 10 before layers shared their kernels.)
    [("unrolled", 28, 20.0), ("scanned", 28, 8.0), ("nnx", 2, 10.0)],
)
def test_compiling_evolution_costs_a_few_times_what_its_function_costs(
    model, layers, most
):
    make, _ = compilation.MODELS[model]
    tokens = jnp.arange(2 * 16).reshape(2, 16)
    jax.jit(lambda x: x + 1).lower(tokens).compile()
    loss, params = make(layers)
    with uncached():
        costs = compilation.costs(loss, params, tokens)
    assert costs["value_and_grad"].seconds < most * costs["plain"].seconds

"""What a strategy does under the modes that JAX can be switched to."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from jax.sharding import AxisType
from programs import PROGRAMS

import eggroll
from eggroll import EvolutionStrategy


def explicit_axes():
    types = (AxisType.Explicit,)
    return jax.set_mesh(jax.make_mesh((1,), ("model",), axis_types=types))


KEYS = {
    "old-style": lambda: jax.random.PRNGKey(0),
    "rbg": lambda: jax.random.key(0, impl="rbg"),
    "unsafe_rbg": lambda: jax.random.key(0, impl="unsafe_rbg"),
}
MODES = {
    "x64": lambda: jax.enable_x64(True),
    "debug_nans": lambda: jax.debug_nans(True),
    "checking_leaks": jax.checking_leaks,
    "default rbg": lambda: jax.default_prng_impl("rbg"),
    "explicit axes": explicit_axes,
    "key reuse": lambda: jax.debug_key_reuse(True),
    "strict types": lambda: jax.numpy_dtype_promotion("strict"),
    "strict ranks": lambda: jax.numpy_rank_promotion("raise"),
}
TYPES = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64"]
CASES = {
    **{name: (mode, "float32", None) for name, mode in MODES.items()},
    **{name: (None, "float32", key) for name, key in KEYS.items()},
    **{name: (None, name, None) for name in TYPES},
}


def loss(params, tokens):
    """Computed in float32 at least, as models with narrow weights are."""
    widened = lambda x: x.astype("float32") if x.dtype.itemsize < 4 else x
    wide = jax.tree.map(widened, params)
    h = jnp.tanh(wide["embed"][tokens] @ wide["w"] + wide["b"][None])
    h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, wide["layers"])
    return jnp.mean((h - 1) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_value_gradient_members_and_coverage_are_right_in_every_mode(name):
    mode, dtype, key = CASES[name]
    if dtype == "float64":
        mode = MODES["x64"]
    with mode() if mode else contextlib.nullcontext():
        battery(dtype, key() if key else jax.random.key(0))


def battery(dtype, key):
    shapes = {"embed": (5, 4), "w": (4, 3), "layers": (2, 3, 3), "b": (3,)}
    ramp = lambda n: (jnp.arange(n) / n - 0.3).astype(dtype)
    params = {k: ramp(int(np.prod(s))).reshape(s) for k, s in shapes.items()}
    tokens = jnp.array([1, 3])
    es = EvolutionStrategy(8, sigma=0.1, chunk_size=4, noise="gaussian")
    _, grads = quick.jit(es.value_and_grad(loss))(params, key, tokens)
    losses, generation = quick.jit(es.ask(loss))(params, key, tokens)
    asked = es.gradient(generation, -losses)
    member = es.member(generation, params, 3)
    narrow = jnp.finfo(dtype).bits < 32
    own = 4 * float(jnp.finfo(dtype).eps) if narrow else 1e-5
    np.testing.assert_allclose(losses[3], loss(member, tokens), rtol=own)
    for k, grad in grads.items():
        assert grad.dtype == member[k].dtype == params[k].dtype
        a, b = (np.asarray(x.astype("float32")) for x in (grad, asked[k]))
        np.testing.assert_allclose(a, b, rtol=max(own, 1e-4), atol=1e-5)
        assert np.any(a)
    covered = eggroll.coverage(loss, params, tokens)
    assert not any(leaf.is_written_out for leaf in covered.leaves)


# Of the battery (tests/perturbation/test_battery.py), those that are written so that
# plain members run in every mode, too.
SOME = ["two experts by gather", "layers scanned in pairs", "coupling flow"]


@pytest.mark.slow
@pytest.mark.parametrize("program", SOME)
@pytest.mark.parametrize("name", CASES)
def test_programs_of_the_battery_agree_in_every_mode(name, program):
    mode, dtype, key = CASES[name]
    one = PROGRAMS[program]
    if dtype == "float64":
        mode = MODES["x64"]
    with mode() if mode else contextlib.nullcontext():
        key = key() if key else jax.random.key(0)
        params = jax.tree.map(lambda w: w.astype(dtype), one.params())
        # What is narrower is widened by the function, as models do it.
        narrow = jnp.finfo(dtype).bits < 32
        wide = lambda w: w.astype("float32") if narrow else w
        x = one.argument().astype("float64" if dtype == "float64" else "float32")
        run = lambda params, x: one.apply(jax.tree.map(wide, params), x)
        es = EvolutionStrategy(4, sigma=0.1)
        outputs, generation = quick.jit(es.ask(run))(params, key, x)
        expected = quick.jit(run)(es.member(generation, params, 3), x)
        own = 8 * float(jnp.finfo(dtype).eps) if narrow else 1e-4
        for a, b in zip(*map(jax.tree.leaves, (outputs, expected)), strict=True):
            bound = own * float(jnp.max(jnp.abs(b)))
            np.testing.assert_allclose(a[3], b, rtol=0, atol=bound)


@pytest.mark.parametrize("mode", ["strict types", "strict ranks"])
@pytest.mark.parametrize("shaping", ["zscore", "centred_rank", "pair_sign"])
def test_gradients_promote_nothing_in_silence(mode, shaping):
    with MODES[mode]():
        es = EvolutionStrategy(
            8, sigma=0.1, chunk_size=2, shaping=getattr(eggroll.shaping, shaping)
        )
        params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
        fn = lambda p, x: jnp.sum(jnp.tanh(x @ p["w"] + p["b"]))
        jax.eval_shape(es.grad(fn), params, jax.random.key(0), jnp.ones(4))

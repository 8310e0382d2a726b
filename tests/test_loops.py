"""Published training loops run and learn with their gradient line changed.

And where they do, the estimate is that of the gradient they had: with `shaping.none`,
rademacher noise in P pairs and a loss that is nearly linear over a small sigma,

    ĝ = 1/P Σ_p E_p (E_p·g),    |E_p|² = d,    E[E_p E_pᵀ] = I

of which, at full rank and at rank 1 alike (both have ±1 for every entry of E),

    E[ĝ·g] = |g|²,    E|ĝ|² = |g|² (1 + (d - 1)/P)

and their ratio is the cosine, 1/√(1 + (d - 1)/P). Errors are those of independent keys.
"""

import jax
import jax.numpy as jnp
import loops
import numpy as np
import optax
import pytest
import quick

from eggroll import EvolutionStrategy, shaping


ERRORS, REPEATS, PAIRS = 5, 16, 512
# One of each kind; `make test-slow` runs the others, too.
QUICK = {
    "donated",
    "equinox_state",
    "nnx_batchnorm",
    "nnx_direct",
    "shard_map",
    "x64",
}
each = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in loops.NAMES
]


@pytest.fixture(autouse=True)
def quick_to_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("name", loops.NAMES)
def test_at_most_two_lines_change(name):
    assert 1 <= len(loops.changes(name)) <= 2


PUBLISHED = pytest.param(False, marks=pytest.mark.slow, id="published")


@pytest.mark.parametrize("port", [PUBLISHED, pytest.param(True, id="evolved")])
@pytest.mark.parametrize("name", each)
def test_the_objective_improves(name, port):
    values = loops.objective(name, port=port)
    last = values[-max(len(values) // 10, 1) :].mean()
    assert last <= loops.setting(name, "IMPROVES") * values[0]


def vector(grads):
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(grads)]
    return np.concatenate(leaves)


def close(found, expected):
    """Equal to rounding, structure, shapes and types included."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if not hasattr(x, "dtype"):
            assert x == y
            continue
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


def spread(values):
    """The standard error of a mean."""
    return np.std(values, ddof=1) / len(values) ** 0.5


def check_against_backprop(name, rank):
    """Value, aux, state, structure and types are equal; the estimate is near."""
    problem = loops.Problem(*loops.execute(name, port=False).problem())
    options = {"has_aux": problem.has_aux}
    if problem.argnums:
        options["argnums"] = problem.argnums
    published = problem.jit(problem.transformation(problem.fn, **options))
    args = problem.fresh()
    expected, gradient = published(*args)

    sigma = loops.setting(name, "SIGMA") or 1e-3
    es = EvolutionStrategy(2 * PAIRS, sigma, rank, shaping=shaping.none)
    evolved = problem.jit(es.value_and_grad(problem.fn, **options))
    found = []
    for key in jax.random.split(jax.random.key(0), REPEATS):
        first, *rest = own = problem.fresh()
        value, grads = evolved(first, key, *rest)
        found.append(vector(grads))

    close(value, expected)
    close(own, args)  # what a module keeps, too
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(grads) == shapes(gradient)
    assert jax.tree.structure(grads) == jax.tree.structure(gradient)

    found, true = np.stack(found), vector(gradient)
    is_evolved = found.any(axis=0)
    np.testing.assert_array_equal(true[~is_evolved], 0)  # behind `stop_gradient`
    along = found @ true / (true @ true)
    length = np.sum(found**2, axis=1) / (true @ true)
    assert abs(along.mean() - 1) <= ERRORS * spread(along)
    ratio = 1 + (is_evolved.sum() - 1) / PAIRS
    cosine = along.mean() / length.mean() ** 0.5
    change = along / ratio**0.5 - length / (2 * ratio**1.5)  # to first order
    assert abs(cosine - 1 / ratio**0.5) <= ERRORS * spread(change)


@pytest.mark.parametrize(
    "rank",
    [1, pytest.param(None, marks=pytest.mark.slow)],
    ids=["rank 1", "full rank"],
)
@pytest.mark.parametrize("name", each)
def test_the_estimate_is_of_the_gradient_by_backprop(name, rank):
    with jax.enable_x64(bool(loops.setting(name, "X64"))):
        check_against_backprop(name, rank)


# --- Rates, and the page that says all this


def descend(**settings):
    """How far 300 steps of SGD bring a loop, and the norms of their gradients."""
    loop, optimizer = loops.execute("scan_steps", port=False), optax.sgd(0.1)
    es = EvolutionStrategy(64, sigma=0.01, **settings)
    run = es.value_and_grad(loop.loss_fn)

    def step(carry, i):
        params, state = carry
        loss, grads = run(params, jax.random.key(0), loop.X, loop.Y, step=i)
        updates, state = optimizer.update(grads, state)
        norm = optax.global_norm(grads)
        return (optax.apply_updates(params, updates), state), (loss, norm)

    params = loop.init()
    start = params, optimizer.init(params)
    train = quick.jit(lambda: jax.lax.scan(step, start, jnp.arange(300))[1])
    losses, norms = train()
    return losses[-1] / losses[0], norms


def test_a_published_rate_of_sgd_holds_for_the_raw_estimate():
    assert descend(shaping=shaping.none)[0] < 0.1


def test_the_length_of_a_z_scored_gradient_tells_nothing_of_the_loss():
    """It is √(1 + (d - 1)/P)/σ, so that the published rate diverges."""
    ratio, norms = descend()
    assert ratio > 2
    expected = (1 + (40 - 1) / 32) ** 0.5 / 0.01
    assert abs(norms.mean() / expected - 1) < 0.05


def test_the_page_shows_the_loops_as_they_are():
    page = (loops.ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
    assert loops.table() in page, loops.table()
    assert len(loops.NAMES) >= 20

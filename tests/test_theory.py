"""The laws of low-rank evolution strategies, with the numbers they predict.

Checks T1 to T7 of "Evolution Strategies at the Hyperscale", arXiv 2511.16652, version
2: the numbers follow from its formulas, and were found by integrating them. What is
random carries five standard errors.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from scipy import integrate, special, stats

import eggroll
from eggroll import EvolutionStrategy, Perturbed, noise, perturbed, shaping, update
from eggroll.plan import Layout, low_rank


KEY = jax.random.key(0)


# --- T1: one entry of A Bᵀ/√r with gaussian factors


def density(entry: np.ndarray, rank: int) -> np.ndarray:
    """Of an entry of unit variance (theorem 6 with s² = 2).

    2√r |√r E|^((r-1)/2) / (s^(r+1) √π Γ(r/2)) · K_((r-1)/2)(2 |√r E| / s²)
    """
    z, order = math.sqrt(rank) * np.abs(entry), (rank - 1) / 2
    constant = 2 ** ((rank - 1) / 2) * math.sqrt(math.pi) * math.gamma(rank / 2)
    return math.sqrt(rank) * z**order * special.kv(order, z) / constant


def expectation(function, rank: int) -> float:
    """E[function(E_ij)], far out: the tails of small ranks are exponential."""
    both = lambda e: (function(e) + function(-e)) * density(e, rank)
    cuts = [0, 0.1, 1, 5, 20, 80]
    return sum(
        integrate.quad(both, a, b, epsabs=1e-12)[0] for a, b in itertools.pairwise(cuts)
    )


def gaussian_expectation(function) -> float:
    return integrate.quad(lambda e: function(e) * stats.norm.pdf(e), -12, 12)[0]


# rank: (peak of e p(e), where it is, largest |e p(e) - e φ(e)|)
FIGURE_3 = {
    1: (0.1485, 0.595, 0.1120),
    2: (0.1839, 0.707, 0.0776),
    3: (0.2005, 0.769, 0.0600),
    5: (0.2161, 0.838, 0.0414),
    10: (0.2291, 0.908, 0.0234),
    20: (0.2357, 0.952, 0.0125),
    50: (0.2395, 0.980, 0.0052),
    100: (0.2408, 0.990, 0.0026),
}


@pytest.mark.parametrize("rank", FIGURE_3)
def test_t1_the_score_of_an_entry_nears_the_gaussian_one(rank):
    e = np.linspace(1e-4, 5, 50_000)
    score = e * density(e, rank)
    peak, where, gap = FIGURE_3[rank]
    assert score.max() == pytest.approx(peak, abs=6e-5)
    assert e[score.argmax()] == pytest.approx(where, abs=6e-4)
    assert np.abs(score - e * stats.norm.pdf(e)).max() == pytest.approx(gap, abs=6e-5)


@pytest.mark.parametrize("rank", [1, 2, 5, 20])
def test_t1_moments_of_an_entry(rank):
    assert expectation(lambda e: 1.0, rank) == pytest.approx(1, rel=1e-6)
    assert expectation(lambda e: e**2, rank) == pytest.approx(1, rel=1e-6)
    assert expectation(lambda e: e**4, rank) == pytest.approx(3 + 6 / rank, rel=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_t1_moments_of_what_the_engine_draws(kind, rank):
    """E[E⁴] = 3 + (κ² - 3)/r with κ the factors' fourth moment, 3 for gaussian."""
    entries = drawn(kind, rank, (8, 8), 4096)[::2].astype(np.float64)
    kurtosis = fourth_moment(kind)
    for power, expected in ((2, 1), (4, 3 + (kurtosis**2 - 3) / rank)):
        means = np.mean(entries**power, axis=(1, 2))
        assert (
            abs(means.mean() - expected) <= 5 * means.std() / len(means) ** 0.5 + 1e-5
        )


def fourth_moment(kind: str) -> float:
    """Of one factor's entries in units of their variance: 3 if they were gaussian."""
    if (table := noise.DISTRIBUTIONS[kind].table) is None:
        return 1.0
    return float(np.mean((table() / noise.std(kind)) ** 4))


@functools.cache
def drawn(kind: Any, rank: int | None, shape: tuple[int, int], n: int) -> np.ndarray:
    """The perturbations E of n members."""
    es = EvolutionStrategy(n, sigma=1.0, rank=rank, noise=kind)
    use = lambda w: (w, jnp.ones(shape[0]) @ w)
    return np.asarray(quick.jit(es.ask(use))(jnp.zeros(shape), KEY)[0][0])


# (M, σ): (gradient of full-rank ES, limit of r(g_r - g_∞), {r: r(g_r - g_∞)}); f = tanh
RATES = {
    (0.3, 1.0): (
        0.589573,
        -0.186457,
        {1: -0.12244, 2: -0.14785, 4: -0.16537, 16: -0.18098, 64: -0.18509},
    ),
    (0.0, 1.0): (0.605706, -0.192302, {1: -0.12776, 64: -0.19100}),
    (0.5, 2.0): (0.355271, -0.112998, {1: -0.08082, 64: -0.11263}),
}


@pytest.mark.parametrize(("mean", "sigma"), RATES)
def test_t2_the_rank_constant_of_tanh(mean, sigma):
    full, limit, measured = RATES[mean, sigma]
    score = lambda e: e * np.tanh(mean + sigma * e) / sigma
    assert gaussian_expectation(score) == pytest.approx(full, abs=1e-6)
    fourth = lambda e: (e**4 - 6 * e**2 + 3) * score(e) / 4
    assert gaussian_expectation(fourth) == pytest.approx(limit, abs=1e-6)
    for rank, expected in measured.items():
        gap = rank * (expectation(score, rank) - full)
        # the rounding of what was published is that of an integral, times the rank
        assert gap == pytest.approx(expected, abs=6e-6 + 6e-7 * rank)


def test_t2_the_engine_meets_the_exact_gradient_of_tanh():
    """One entry, rank 1: E[e tanh(M + σ e)]/σ."""
    es = EvolutionStrategy(512, sigma=1.0, noise="gaussian", shaping=shaping.none)
    fitness = lambda w: jnp.sum(jnp.tanh(jnp.eye(8) @ w))
    run = lambda key: es.value_and_grad(fitness)(jnp.full((8, 8), 0.3), key)[1]
    grads = quick.jit(jax.vmap(run))(jax.random.split(KEY, 64))
    found = -np.asarray(grads, np.float64).mean(axis=(1, 2))
    exact = RATES[0.3, 1.0][0] + RATES[0.3, 1.0][2][1]
    assert abs(found.mean() - exact) < 5 * found.std() / 64**0.5


# rank (None: gaussian): E|v|³/2, the error per √d σ L of the tight example of theorem 1
CUBES = {
    None: math.sqrt(2 / math.pi),
    1: 4 / math.pi,
    2: 1.06066,
    4: 0.93750,
    16: 0.83462,
    64: 0.80719,
}


@pytest.mark.parametrize("rank", CUBES)
def test_t3_the_tight_example_of_linearisation(rank):
    """f = (L/2) Σ x|x| + aᵀx at 0: each entry's gradient is off by σ L E|v|³/2."""
    cube = lambda e: abs(e) ** 3 / 2
    found = expectation(cube, rank) if rank else gaussian_expectation(cube)
    assert found == pytest.approx(CUBES[rank], abs=6e-6)


@pytest.mark.parametrize(("kind", "rank"), [("gaussian", 1), ("gaussian", 4)])
def test_t3_what_the_engine_draws(kind, rank):
    cubes = np.abs(drawn(kind, rank, (8, 8), 16384)[::2].astype(np.float64)) ** 3 / 2
    means = cubes.mean(axis=(1, 2))
    assert abs(means.mean() - CUBES[rank]) < 5 * means.std() / len(means) ** 0.5 + 2e-3


# --- T4: any cubic differs from full-rank ES by exactly a constant over the rank


def cubic_law(m: int, n: int, rank: int | None, kurtosis: float) -> float:
    """The coefficient c of the gradient σ² c u of f = ⟨u, W⟩ |W|² at 0, u = 1/√d.

    Gaussian factors (κ = 3): (mn + 2) + (2m + 2n + 2)/r. For any factors, the 1/r of
    the terms in which all four perturbations are of one rank give (m - 1 + κ)(n - 1 +
    κ) instead of mn + 2. Full rank: mn - 1 + κ.
    """
    if rank is None:
        return m * n - 1 + kurtosis
    together = (m - 1 + kurtosis) * (n - 1 + kurtosis)
    return (m * n + 2) * (1 - 1 / rank) + together / rank


CUBIC = [
    # (m, n, rank, kind, the paper's value for gaussian factors)
    (4, 6, 1, "gaussian", 48),
    (4, 6, 2, "gaussian", 37),
    (4, 6, 4, "gaussian", 31.5),
    (8, 8, 1, "gaussian", 100),
    (4, 6, None, "gaussian", 26),
    (4, 6, 1, "rademacher", 24),
    (4, 6, 2, "rademacher", 25),
    (4, 6, None, "rademacher", 24),
]


@pytest.mark.parametrize(("m", "n", "rank", "kind", "value"), CUBIC)
def test_t4_cubics_follow_an_exact_law_of_one_over_the_rank(m, n, rank, kind, value):
    exact = cubic_law(m, n, rank, {"gaussian": 3.0, "rademacher": 1.0}[kind])
    assert exact == pytest.approx(value)
    sigma, u = 0.5, (m * n) ** -0.5
    es = EvolutionStrategy(2**16, sigma, rank, kind, shaping=shaping.none, chunk=2**14)

    def fitness(w):
        row, column = jnp.ones(m) @ w, w @ jnp.ones(n)  # both used as a matrix
        return u * (jnp.sum(row) + jnp.sum(column)) / 2 * jnp.sum((jnp.eye(m) @ w) ** 2)

    run = quick.jit(lambda: es.value_and_grad(fitness)(jnp.zeros((m, n)), KEY)[1])
    found = -np.sum(np.asarray(run(), np.float64)) * u / sigma**2
    here = cubic_law(m, n, rank, fourth_moment(kind))  # of the table, not quite 3
    assert abs(found - here) < 5 * standard_error_of_cubic(m, n, rank, kind, 2**15)


def standard_error_of_cubic(m, n, rank, kind, pairs) -> float:
    """Of the mean over pairs of ⟨u, E⟩² |E|², from perturbations drawn apart."""
    e = drawn(kind, rank, (m, n), 8192)[::2].astype(np.float64)
    values = e.sum(axis=(1, 2)) ** 2 / (m * n) * (e**2).sum(axis=(1, 2))
    return values.std() / pairs**0.5 + 1e-4


# --- T5: wide layers


@pytest.mark.slow
@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize(
    ("power", "expected"),
    [
        (-0.75, {8: 0.994, 16: 1.001, 32: 1.004}),
        (-0.5, {8: 0.978, 16: 0.995, 32: 0.997}),
        (-0.25, {8: 0.843, 16: 0.896, 32: 0.930}),
    ],
)
def test_t5_low_rank_gradients_agree_with_backpropagation_when_wide(
    power, expected, width
):
    """The estimate's coefficient along the true gradient, for one problem."""
    random = np.random.default_rng(0)
    w, x = random.normal(size=(width, width)), random.normal(size=width)
    c = random.normal(size=width) / width**0.5
    w, x, c = (jnp.asarray(a, jnp.float32) for a in (w, x / np.linalg.norm(x), c))
    fitness = lambda w: c @ jnp.tanh(w @ x)
    sigma = (width**2) ** power
    es = EvolutionStrategy(
        2**18, sigma, 1, "gaussian", shaping=shaping.none, chunk=2**14
    )
    _, grads = jax.jit(es.value_and_grad(fitness))(w, KEY)
    true = jax.grad(fitness)(w)
    along = -jnp.sum(grads * true) / jnp.sum(true**2)
    cosine = -jnp.sum(grads * true) / jnp.linalg.norm(grads) / jnp.linalg.norm(true)
    # another problem than the one of the published numbers: of their size
    assert along == pytest.approx(expected[width], abs=0.06)
    assert cosine > 0.98


# --- T6: the two identities, in double precision


@pytest.mark.parametrize("rank", [1, 3])
def test_t6_forward_identity(rank):
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        w, a, b, x = (
            jnp.asarray(random.normal(size=s))
            for s in ((7, 5), (7, rank), (5, rank), (4, 7))
        )
        leaf = Perturbed.matrix(w, a, b, 0.1 / math.sqrt(rank))
        out = jax.jit(perturbed(lambda w, x: x @ w))(leaf, x)
        assert out.dtype == jnp.float64
        expected = x @ (w + 0.1 / math.sqrt(rank) * a @ b.T)
        np.testing.assert_allclose(out, expected, rtol=1e-12)


@pytest.mark.parametrize("rank", [1, 3])
def test_t6_update_identity(rank):
    random = np.random.default_rng(0)
    layout = Layout("w", (7, 5), "float64", low_rank(rank), (), (0,), (1,))
    with jax.enable_x64(True):
        a, b, weights = (
            jnp.asarray(random.normal(size=s))
            for s in ((6, 7, rank), (6, 5, rank), (6,))
        )
        total = update.contract(layout, [a[:, :, None], b[:, None]], weights)
        expected = jnp.einsum("p,pir,pjr->ij", weights, a, b)
        np.testing.assert_allclose(total, expected, rtol=1e-12)
        assert np.linalg.matrix_rank(total) == min(6 * rank, 7, 5)


# --- T7: what a population costs


def intensity(batch: int, width: int, rank: int) -> float:
    """Operations a byte of a layer in bfloat16; rank 0 is inference (appendix F)."""
    if rank == 0:
        return batch * width / (2 * batch + width)
    reads = 2 + rank * (2 + 2 / width) + width / batch
    return (width + 2 * rank + 0.5) / reads


@pytest.mark.parametrize(
    ("rank", "batch"), [(0, 324), (1, 352), (2, 384), (4, 473), (8, 875), (12, 5913)]
)
def test_t7_batch_that_a_gpu_needs_to_be_busy(rank, batch):
    """300 operations a byte, width 8192: low rank needs barely more than inference."""
    needed = next(b for b in range(1, 10_000) if intensity(b, 8192, rank) >= 300)
    assert abs(needed - batch) <= 1


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_t7_a_member_costs_what_the_formula_says(rank):
    """Beyond 2 m² operations a row: m(4r + 1) for one input a member."""
    width, members = 64, 32
    shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)

    def forward(w, a, b, x):
        leaf = lambda a, b: Perturbed.matrix(w, a, b, 0.1)
        one = lambda a, b, x: perturbed(lambda w, x: x @ w)(leaf(a, b), x)
        return jax.vmap(one)(a, b, x)

    def flops(function, *args):
        costs: Any = jax.jit(function).lower(*args).compile().cost_analysis()
        return costs["flops"]

    w, x = shape(width, width), shape(members, width)
    factor = shape(members, width, rank)
    extra = flops(forward, w, factor, factor, x) - flops(jnp.matmul, x, w)
    assert extra == pytest.approx(members * width * (4 * rank + 1), rel=0.25)


def test_coverage_counts_what_a_member_draws():
    layout = eggroll.coverage(
        lambda w, x: x @ w, jnp.ones((64, 32)), jnp.ones(64), rank=3
    )
    assert layout["params"].layout.values == 3 * (64 + 32)

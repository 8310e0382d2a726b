"""The laws of low-rank evolution strategies, as the library's estimator obeys them.

Checks T1 to T7 of "Evolution Strategies at the Hyperscale", arXiv 2511.16652, version
2. The paper's closed forms are what is expected; what is found is drawn, evaluated and
estimated by an `EvolutionStrategy`. What is random carries five standard errors, from
the estimate's own terms; what can be exact is.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from scipy import integrate, special, stats

import eggroll
from eggroll import EvolutionStrategy, Perturbed, perturbed, shaping
from eggroll.evolution.distributions import std


KEY = jax.random.key(0)
PAIRS = 2**17
Fitness = Callable[[Any], Any]


def density(entry: np.ndarray, rank: int | None) -> np.ndarray:
    """Of an entry of A Bᵀ/√r with gaussian factors (theorem 6 with s² = 2).

    2√r |√r E|^((r-1)/2) / (s^(r+1) √π Γ(r/2)) · K_((r-1)/2)(2 |√r E| / s²)
    """
    if rank is None:
        return stats.norm.pdf(entry)
    z, order = math.sqrt(rank) * np.abs(entry), (rank - 1) / 2
    constant = 2 ** ((rank - 1) / 2) * math.sqrt(math.pi) * math.gamma(rank / 2)
    return math.sqrt(rank) * z**order * special.kv(order, z) / constant


def expectation(function: Fitness, rank: int | None) -> float:
    """E[function(E_ij)], far out: the tails of small ranks are exponential."""
    both = lambda e: (function(e) + function(-e)) * density(e, rank)
    cuts = [0, 0.1, 1, 5, 20, 80]
    return sum(
        integrate.quad(both, a, b, epsabs=1e-12)[0] for a, b in itertools.pairwise(cuts)
    )


# --- one entry of a matrix


@functools.cache
def strategy(rank: int | None) -> tuple[EvolutionStrategy, Callable, Callable]:
    """A population, and what asks for an entry of each member and for a gradient.

    Sigma is half the number of the step: one program serves all sigmas.
    """
    es = EvolutionStrategy(
        2 * PAIRS,
        sigma=lambda step: step / 2,
        rank=rank,
        noise="gaussian",
        shaping=shaping.none,
    )
    first = jnp.array([1.0, 0.0])
    return es, jax.jit(es.ask(lambda w: (first @ w)[0])), jax.jit(es.gradient)


def estimate(
    fitness: Fitness, rank: int | None, mean: float = 0.0, sigma: float = 1.0
) -> tuple[float, float]:
    """The gradient of the fitness of one entry, and its standard error."""
    _, ask, gradient = strategy(rank)
    entries, generation = ask(jnp.full((2, 2), mean), KEY, step=round(2 * sigma))
    grads = gradient(generation, fitness(entries))
    return -float(grads[0, 0]), _terms(fitness, entries, mean, sigma).std() / PAIRS**0.5


def _terms(fitness: Fitness, entries: Any, mean: float, sigma: float) -> np.ndarray:
    """What each pair contributes to the estimate: e f / σ, the slow and obvious way."""
    e = (np.asarray(entries, np.float64) - mean) / sigma
    terms = e * np.asarray(fitness(entries), np.float64) / sigma
    return terms.reshape(PAIRS, 2).mean(axis=1)


@pytest.mark.parametrize("rank", [1, 4, None])
def test_an_estimate_is_the_mean_of_what_the_pairs_contribute(rank):
    _, ask, gradient = strategy(rank)
    entries, generation = ask(jnp.full((2, 2), 0.5), KEY, step=1)
    found = -gradient(generation, jnp.tanh(entries))[0, 0]
    expected = _terms(jnp.tanh, entries, 0.5, 0.5).mean()
    assert found == pytest.approx(expected, rel=1e-4)


# Between values of a factor, and between slices of a Gaussian.
EDGES = np.array([0, 20, 64, 106, 160]) / std("gaussian")


@pytest.mark.parametrize("rank", [1, 2, 5, None])
@pytest.mark.parametrize(
    ("low", "high"), itertools.pairwise(EDGES), ids=["near", "to 1.6", "to 2.6", "far"]
)
def test_t1_a_step_of_fitness_yields_the_area_below_the_curve_of_figure_3(
    rank, low, high
):
    """The score of an entry, e p(e), is the gradient of a fitness of bands."""
    band = lambda w: jnp.where((low <= w) & (w < high), 1.0, 0.0)
    found, error = estimate(band, rank)
    area, _ = integrate.quad(lambda e: e * density(e, rank), low, high)
    assert abs(found - area) < 5 * error


@pytest.mark.parametrize(("kind", "kurtosis"), [("gaussian", 3), ("rademacher", 1)])
@pytest.mark.parametrize("rank", [1, 2, 5, None])
def test_t1_moments_of_what_members_are_perturbed_by(kind, kurtosis, rank):
    """E[E²] = 1 and E[E⁴] = 3 + (κ² - 3)/r with κ the factors' fourth moment."""
    es = EvolutionStrategy(8192, sigma=1.0, rank=rank, noise=kind)
    use = lambda w: jnp.eye(8) @ w
    entries, _ = quick.jit(es.ask(use))(jnp.zeros((8, 8)), KEY)
    entries = np.asarray(entries, np.float64)[::2]
    fourth = kurtosis if rank is None else 3 + (kurtosis**2 - 3) / rank
    for power, expected in ((1, 0), (2, 1), (4, fourth)):
        means = np.mean(entries**power, axis=(1, 2))
        error = means.std() / len(means) ** 0.5
        assert abs(means.mean() - expected) <= 5 * error + 1e-6


# (M, σ): (gradient of full-rank ES, {r: r(g_r - g_∞)}) of tanh
RATES = {
    (0.3, 1.0): (0.589573, {1: -0.12244, 2: -0.14785, 4: -0.16537, 16: -0.18098}),
    (0.0, 1.0): (0.605706, {1: -0.12776}),
    (0.5, 2.0): (0.355271, {1: -0.08082}),
}
T2 = [(*at, rank) for at, (_, rates) in RATES.items() for rank in (None, *rates)]


@pytest.mark.parametrize(("mean", "sigma", "rank"), T2)
def test_t2_the_gradient_of_tanh_nears_that_of_full_rank_as_one_over_the_rank(
    mean, sigma, rank
):
    full, rates = RATES[mean, sigma]
    found, error = estimate(jnp.tanh, rank, mean, sigma)
    assert abs(found - full - (rates[rank] / rank if rank else 0)) < 5 * error


# rank: E|v|³/2, the error per √d σ L of the tight example of theorem 1
CUBES = {None: math.sqrt(2 / math.pi), 1: 4 / math.pi, 2: 1.06066, 4: 0.93750}


@pytest.mark.parametrize("rank", CUBES)
@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_t3_the_tight_example_of_linearisation_is_off_by_its_constant(rank, sigma):
    """f = (L/2) Σ x|x| + aᵀx at 0: each entry's gradient is off by σ L E|v|³/2."""
    slope, curvature = 0.7, 3.0
    fitness = lambda x: curvature / 2 * x * abs(x) + slope * x
    found, error = estimate(fitness, rank, sigma=sigma)
    assert abs(found - slope - sigma * curvature * CUBES[rank]) < 5 * error


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


@pytest.mark.parametrize(
    ("m", "n", "rank", "kind"),
    [
        (4, 6, 1, "gaussian"),
        (4, 6, 2, "gaussian"),
        (4, 6, 4, "gaussian"),
        (4, 6, None, "gaussian"),
        (8, 8, 1, "gaussian"),
        (4, 6, 1, "rademacher"),
        (4, 6, 2, "rademacher"),
        (4, 6, None, "rademacher"),
    ],
)
def test_t4_cubics_follow_an_exact_law_of_one_over_the_rank(m, n, rank, kind):
    sigma, u, pairs = 0.5, (m * n) ** -0.5, 2**15
    es = EvolutionStrategy(2 * pairs, sigma, rank, kind, shaping=shaping.none)

    def along_and_fitness(w):
        along = u * jnp.sum(jnp.ones(m) @ w)
        return along, along * jnp.sum((jnp.eye(m) @ w) ** 2)

    @quick.jit
    def run():
        (along, fitness), generation = es.ask(along_and_fitness)(jnp.zeros((m, n)), KEY)
        return along * fitness, es.gradient(generation, fitness)

    terms, grads = (np.asarray(x, np.float64) for x in run())
    found = -np.sum(grads) * u / sigma**2
    error = terms.reshape(pairs, 2).mean(axis=1).std() / pairs**0.5 / sigma**4
    kurtosis = {"gaussian": 3.0, "rademacher": 1.0}[kind]
    assert abs(found - cubic_law(m, n, rank, kurtosis)) < 5 * error + 1e-4


# --- T5: wide layers


@pytest.mark.parametrize(
    ("width", "power", "rank"),
    [(8, -0.25, 1), (8, -0.25, None), (8, -0.75, 1), (32, -0.25, 1)],
)
def test_t5_a_layer_of_tanh_has_the_gradient_of_its_entries_noise(width, power, rank):
    """f = c·tanh(W x) with |x| = 1: the estimate is Σ_k c_k E[e tanh(h_k + σe)]/σ xᵀ.

    Neuron k sees one entry's noise, whatever the width, and its own row alone differs
    from zero; so the estimate nears backpropagation's where σ = d^power goes to 0.
    """
    random = np.random.default_rng(0)
    w, x = random.normal(size=(width, width)), random.normal(size=width)
    c, x = random.normal(size=width) / width**0.5, x / np.linalg.norm(x)
    sigma = (width**2) ** power
    slopes = [
        expectation(lambda e, h=h: e * np.tanh(h + sigma * e) / sigma, rank)
        for h in w @ x
    ]
    true = np.outer(c * slopes, x)
    weights, inputs, outputs = (jnp.asarray(a, jnp.float32) for a in (w, x, c))
    es = EvolutionStrategy(2**14, sigma, rank, "gaussian", shaping=shaping.none)
    run = es.value_and_grad(fitness=lambda w: outputs @ jnp.tanh(w @ inputs))
    each = lambda key: run(weights, key)[1]
    grads = jax.jit(lambda keys: jax.lax.map(each, keys))(jax.random.split(KEY, 16))
    found = -np.asarray(grads, np.float64)
    along = np.sum(found * true, axis=(1, 2)) / np.sum(true**2)
    assert abs(along.mean() - 1) < 5 * along.std(ddof=1) / 16**0.5
    # and each entry by itself: five errors of them all, as chi-squared has it
    z = (found.mean(axis=0) - true) / (found.std(axis=0, ddof=1) / 16**0.5)
    variance = 15 / 13  # of Student's t with 15 degrees of freedom
    assert np.mean(z**2) < variance * (1 + 5 * math.sqrt(3 / z.size))


# --- T6: the two identities, exactly: signs, and powers of two wherever they are scaled


@pytest.mark.parametrize("rank", [1, 4])
def test_t6_members_compute_with_the_matrix_that_they_stand_for(rank):
    random = np.random.default_rng(0)
    w, x = (jnp.asarray(random.integers(-8, 9, s), jnp.float32) for s in ((7, 5), (7,)))
    es = EvolutionStrategy(12, sigma=0.25, rank=rank)

    @quick.jit
    def run():
        outputs, generation = es.ask(lambda w, x: x @ w)(w, KEY, x)
        return outputs, [es.member(generation, w, i) for i in range(12)]

    outputs, members = run()
    for member, output in zip(members, outputs, strict=True):
        np.testing.assert_array_equal(output, x @ member)
    ranks = {int(np.linalg.matrix_rank(member - w)) for member in members}
    assert max(ranks) <= rank
    assert 0 not in ranks


@pytest.mark.parametrize("rank", [1, 4])
def test_t6_the_update_is_the_weighted_sum_of_the_matrices_that_it_never_forms(rank):
    w, fitness = jnp.zeros((7, 5)), np.random.default_rng(0).integers(-8, 9, 16)
    es = EvolutionStrategy(16, sigma=0.25, rank=rank, shaping=shaping.none)

    @quick.jit
    def run():
        _, generation = es.ask(lambda w: jnp.ones(7) @ w)(w, KEY)
        members = jnp.stack([es.member(generation, w, i) for i in range(16)])
        return members, es.gradient(generation, fitness)

    members, grads = run()
    total = np.einsum("n,nij->ij", fitness, members)
    np.testing.assert_array_equal(grads, -total / (16 * 0.25**2))


@pytest.mark.parametrize(("pairs", "rank"), [(3, 1), (3, 2), (12, 2)])
def test_t6_the_update_has_the_rank_of_all_its_pairs_together(pairs, rank):
    fitness = np.random.default_rng(0).normal(size=2 * pairs)
    es = EvolutionStrategy(2 * pairs, 1.0, rank, "gaussian", shaping=shaping.none)

    @quick.jit
    def run():
        _, generation = es.ask(lambda w: jnp.ones(11) @ w)(jnp.zeros((11, 8)), KEY)
        return es.gradient(generation, fitness)

    assert np.linalg.matrix_rank(np.asarray(run())) == min(pairs * rank, 8)


# --- T7: what a population costs


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
    # the last operation is that of adding: the compiler fuses it into some product
    assert extra / (members * width) == pytest.approx(4 * rank + 1, abs=1.1)


def test_t7_a_member_draws_rows_and_columns_and_no_matrix():
    """(m + n) r values instead of m n."""
    layout = eggroll.coverage(
        lambda w, x: x @ w, jnp.ones((64, 32)), jnp.ones(64), rank=3
    )
    assert layout["params"].layout.values == 3 * (64 + 32)

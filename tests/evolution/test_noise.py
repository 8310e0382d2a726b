"""Noise is a function of key, generation, leaf and pair, and of nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from jax.extend.random import threefry_2x32

import eggroll
from eggroll.evolution import distributions, kernels, noise
from eggroll.evolution.distributions import DISTRIBUTIONS
from eggroll.evolution.noise import member_key, threefry2x32
from eggroll.perturbation.layout import Layout
from eggroll.perturbation.rules import full_rank, low_rank


KEY = jax.random.key(0)
each_noise = pytest.mark.parametrize("kind", ["rademacher", "gaussian"])


def perturbations(params, *, key=KEY, step=0, population=64, **settings):
    """σE / σ of each member and leaf: matrices are low-rank, the rest full rank."""
    ask = asker(population, tuple(settings.items()))
    (members, _), _ = ask(params, key, step=step)
    return jax.tree.map(lambda x, mean: np.asarray(x - mean), members, params)


@functools.cache
def asker(population, settings):
    es = eggroll.EvolutionStrategy(population, sigma=1.0, **dict(settings))

    def use(params):
        matrices = [x for x in jax.tree.leaves(params) if x.ndim == 2]
        stacks = [x for x in jax.tree.leaves(params) if x.ndim == 3]
        used = [jnp.ones(x.shape[0]) @ x for x in matrices]
        for stack in stacks:
            body = lambda h, w: (h, jnp.ones(w.shape[0]) @ w)
            used.append(jax.lax.scan(body, 0.0, stack)[1])
        return params, used

    return quick.jit(es.ask(use))


def correlation(x, y):
    return np.mean(x * y) / np.sqrt(np.mean(x**2) * np.mean(y**2))


# --- The generator


# "threefry2x32 20" of the known-answer tests of Random123, the authors' own code:
# counter, key, result
KNOWN_ANSWERS = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_threefry_gives_the_known_answers(counter, key, expected):
    word = lambda x: jnp.asarray([x], jnp.uint32)
    result = threefry2x32(
        (word(key[0]), word(key[1])), (word(counter[0]), word(counter[1]))
    )
    assert tuple(int(x[0]) for x in result) == expected


def test_threefry_is_the_generator_of_jax():
    key = jax.random.key_data(jax.random.key(42))
    counter = np.random.default_rng(0).integers(0, 2**32, (2, 100), np.uint32)
    spread = (jnp.full(100, key[0]), jnp.full(100, key[1]))
    ours = threefry2x32(spread, (jnp.asarray(counter[0]), jnp.asarray(counter[1])))
    theirs = threefry_2x32(key, jnp.asarray(counter.reshape(-1)))
    np.testing.assert_array_equal(np.concatenate(ours), theirs)


TABLES = {n: d.table for n, d in DISTRIBUTIONS.items() if d.table}


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES.keys())
def test_tables_are_exactly_symmetric_int8(make):
    table = make()
    assert table.dtype == np.int8
    assert table.min() >= -127
    np.testing.assert_array_equal(table, -table[::-1])


@pytest.mark.parametrize(
    ("name", "fourth", "sixth", "largest"),
    [("gaussian", 0.015, 0.07, 2.972), ("int8_gaussian", 0.005, 0.03, 4.312)],
)
def test_gaussian_tables_have_the_moments_of_a_gaussian(name, fourth, sixth, largest):
    """But for what is cut off: of 256 slices more than of 65,536."""
    values = TABLES[name]() / distributions.std(name)
    assert np.mean(values**2) == pytest.approx(1, abs=1e-6)
    assert np.mean(values**4) == pytest.approx(3, rel=fourth)
    assert np.mean(values**6) == pytest.approx(15, rel=sixth)
    assert values.max() == pytest.approx(largest, abs=1e-3)


# --- Moments of what is drawn


@each_noise
def test_entries_are_symmetric_with_unit_variance(kind):
    entries = perturbations(jnp.zeros(101), population=8192, noise=kind)[::2]
    n = entries.size
    assert abs(np.mean(entries)) < 5 / n**0.5
    assert abs(np.mean(entries**2) - 1) < 5 * (2 / n) ** 0.5
    assert abs(np.mean(entries**3)) < 5 * (15 / n) ** 0.5


def test_rademacher_factors_are_signs():
    entries = perturbations({"w": jnp.zeros((5, 3)), "b": jnp.zeros(3)})
    assert {abs(float(x)) for leaf in entries.values() for x in leaf.flat} == {1.0}


# --- Independence: correlations within five standard errors of zero


@each_noise
@pytest.mark.parametrize("shape", [(33,), (9, 7)], ids=["full rank", "low rank"])
def test_pairs_leaves_steps_and_keys_are_independent(kind, shape):
    params = {"a": jnp.zeros(shape), "b": jnp.zeros(shape)}
    draw = lambda **k: perturbations(params, population=4096, noise=kind, **k)
    now, later, other = draw(), draw(step=1), draw(key=jax.random.key(1))
    a = now["a"][::2]
    bound = 5 / (2048 * min(shape)) ** 0.5
    assert abs(correlation(a, now["b"][::2])) < bound
    assert abs(correlation(a, later["a"][::2])) < bound
    assert abs(correlation(a, other["a"][::2])) < bound
    assert abs(correlation(a[1:], a[:-1])) < bound
    flat = a.reshape(len(a), -1)
    assert abs(correlation(flat[:, 1:], flat[:, :-1])) < bound


@each_noise
def test_layers_of_a_stack_are_independent(kind):
    stack = perturbations(jnp.zeros((3, 9, 7)), population=4096, noise=kind)[::2]
    bound = 5 / 2048**0.5
    assert abs(correlation(stack[:, 0], stack[:, 1])) < bound
    # nor do they share a factor: the products of entries in a row, in a column
    rows, columns = (
        stack[:, :, :, 0] * stack[:, :, :, 1],
        stack[:, :, 0] * stack[:, :, 1],
    )
    assert abs(correlation(rows[:, 0], rows[:, 1])) < bound
    assert abs(correlation(columns[:, 0], columns[:, 1])) < bound


@each_noise
def test_ranks_and_sides_are_independent(kind):
    # were both factors the same, the diagonal would be positive
    square = perturbations(jnp.zeros((9, 9)), population=4096, noise=kind)[::2]
    diagonal = np.trace(square, axis1=1, axis2=2)
    assert abs(np.mean(diagonal)) < 5 * np.std(diagonal) / 2048**0.5
    ranks = np.linalg.matrix_rank(perturbations(jnp.zeros((9, 9)), noise=kind, rank=4))
    assert (ranks == 4).mean() > 0.9


# --- What noise does not depend on


@each_noise
def test_a_leaf_elsewhere_changes_nothing(kind):
    params = {"w": jnp.zeros((5, 3)), "b": jnp.zeros(3)}
    alike = [jnp.zeros((5, 3))] * 8  # so many are decoded in another way
    more = {"a": jnp.zeros((7, 2)), **params, "layers": alike}
    one, two = perturbations(params, noise=kind), perturbations(more, noise=kind)
    np.testing.assert_array_equal(one["w"], two["w"])
    np.testing.assert_array_equal(one["b"], two["b"])


@each_noise
def test_more_members_change_nothing(kind):
    few, many = (
        perturbations(jnp.zeros((5, 3)), population=n, noise=kind) for n in (6, 64)
    )
    np.testing.assert_array_equal(few, many[:6])


@each_noise
@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_change_nothing(kind, chunk):
    params = {"w": jnp.zeros((5, 3)), "b": jnp.zeros(3)}
    whole = perturbations(params, population=16, noise=kind)
    parts = perturbations(params, population=16, noise=kind, chunk_size=chunk)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_vmap_changes_nothing():
    keys, ask = jax.random.split(KEY, 3), asker(64, ())
    draw = lambda key: ask(jnp.zeros(5), key)[0][0]
    together, alone = jax.vmap(draw)(keys), jnp.stack([draw(key) for key in keys])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_what_keeps_words_changes_nothing(kind, monkeypatch):
    """Loops do on a CPU; elsewhere barriers: the way of accelerators."""
    layouts = (
        Layout("w", (6, 5), "float32", low_rank(2), (), (0,), (1,)),
        *(Layout(f"b{i}", (7,), "float32", full_rank(), (), (0,)) for i in range(8)),
    )
    sign = jnp.array([1.0, -1.0] * 5)

    def one():
        draw = noise._draw.__wrapped__  # traced anew
        return jax.jit(lambda key: draw(layouts, key, jnp.arange(5), kind, 2, sign))(
            KEY
        )

    looped = one()
    monkeypatch.setattr(kernels, "barriers_hold", lambda: True)
    jax.tree.map(np.testing.assert_array_equal, one(), looped)


def test_64_bit_mode_changes_nothing():
    params = jnp.zeros((5, 3))
    narrow = perturbations(params, noise="gaussian", step=3)
    with jax.enable_x64(True):
        wide = perturbations(params, noise="gaussian", step=3)
    np.testing.assert_array_equal(narrow, wide)


def test_an_unsigned_integer_key_is_the_key_it_stands_for():
    raw = perturbations(jnp.zeros(5), key=jax.random.PRNGKey(0))
    np.testing.assert_array_equal(raw, perturbations(jnp.zeros(5), key=KEY))


def test_a_key_of_another_kind_draws_the_same_whatever_is_drawn_beside_it():
    key = jax.random.key(0, impl="rbg")
    alone = perturbations({"w": jnp.zeros(5)}, key=key)["w"]
    beside = perturbations(
        {"a": jnp.zeros(3), "w": jnp.zeros(5)}, key=key, chunk_size=4
    )["w"]
    np.testing.assert_array_equal(alone, beside)


def test_leaves_that_would_share_their_noise_are_refused():
    # neither one name nor one checksum: crc32("plumless") = crc32("buckeroo")
    for params in ({"a/b": 0.0, "a": {"b": 0.0}}, {"plumless": 0.0, "buckeroo": 0.0}):
        arrays = jax.tree.map(jnp.float32, params)
        with pytest.raises(ValueError, match=r"would share their noise.*rename one"):
            perturbations(arrays)


# --- Antithetic pairs, reuse, and the key of a member


@each_noise
def test_antithetic_members_mirror_each_other(kind):
    params = {"w": jnp.zeros((5, 3)), "b": jnp.zeros(3), "s": jnp.zeros((2, 3, 4))}
    for rank in (1, 3):
        for leaf in perturbations(params, noise=kind, rank=rank).values():
            np.testing.assert_array_equal(leaf[0::2], -leaf[1::2])


def test_without_pairs_every_member_has_noise_of_its_own():
    noise = perturbations(jnp.zeros(40), antithetic=False)
    assert len(np.unique(np.abs(noise - noise[:, :1]), axis=0)) == len(noise)


def test_reuse_keeps_noise_for_that_many_steps():
    draw = lambda step: perturbations(jnp.zeros(40), step=step, noise_reuse=3)
    np.testing.assert_array_equal(draw(3), draw(5))
    assert np.any(draw(2) != draw(3))


def test_the_key_of_a_member_is_new_for_each_pair_and_step():
    keys = [member_key(KEY, step, jnp.int32(p)) for step in (0, 1) for p in (0, 1)]
    data = {tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in keys}
    assert len(data) == 4


@each_noise
def test_jax_settings_of_its_own_generator_change_nothing(kind):
    params = {"w": jnp.zeros((5, 3)), "b": jnp.zeros(3)}
    usual = perturbations(params, noise=kind, step=3)
    with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"):
        jax.tree.map(
            np.testing.assert_array_equal,
            usual,
            perturbations(params, noise=kind, step=3),
        )

import jax
import jax.numpy as jnp
import numpy as np

from tasks.control import normalisation
from tasks.control.normalisation import no_moments


# Compiled, as they are used, rather than operation by operation.
merge, merge_all, moments, normalise, normalise_team = map(
    jax.jit,
    (
        normalisation.merge,
        normalisation.merge_all,
        normalisation.moments,
        normalisation.normalise,
        normalisation.normalise_team,
    ),
)


def test_moments_merge_as_if_all_samples_had_been_seen_at_once(getkey):
    x = 1000 + jax.random.normal(getkey(), (50, 3))
    valid = jax.random.bernoulli(getkey(), 0.7, (50,))
    whole = moments(x, valid)
    parts = [moments(x[:10], valid[:10]), moments(x[10:], valid[10:])]
    together = merge(no_moments((3,)), merge(*parts))
    stacked = merge_all(jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts))
    for one in (together, stacked):
        np.testing.assert_allclose(one.count, whole.count)
        np.testing.assert_allclose(one.mean, whole.mean, rtol=1e-6)
        np.testing.assert_allclose(one.deviations, whole.deviations, rtol=1e-3)
    kept = np.array(x, np.float64)[np.array(valid)]
    np.testing.assert_allclose(whole.deviations / len(kept), kept.var(0), rtol=1e-3)


def test_moments_leave_non_finite_samples_out():
    x = jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [3.0, 4.0], [jnp.inf, 0.0]])
    seen = moments(x, jnp.ones(4, bool))
    np.testing.assert_array_equal(seen.mean, [2, 3])
    np.testing.assert_array_equal(seen.deviations, [2, 2])


def test_before_anything_is_seen_observations_pass_as_they_are():
    x = jnp.array([-30.0, 0.5])
    np.testing.assert_array_equal(normalise(x, no_moments((2,))), x)


def test_units_do_not_matter(getkey):
    x = 1 + jax.random.normal(getkey(), (1000, 1))
    units = jnp.logspace(-12, 12, 25)
    see = lambda x: normalise(x, moments(x, jnp.ones(1000, bool)))
    scaled = see(x * units)
    np.testing.assert_allclose(scaled, np.tile(scaled[:, 12:13], 25), atol=1e-3)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-3)


def test_the_less_a_number_varies_the_smoother_it_goes_to_zero(getkey):
    spread = jnp.logspace(-7, 0, 29)  # over the mean
    x = 1 + jnp.sign(jax.random.normal(getkey(), (1000, 1))) * spread
    scaled = normalise(x, moments(x, jnp.ones(1000, bool))).std(axis=0)
    expected = spread / jnp.sqrt(spread**2 + 1e-10)
    np.testing.assert_allclose(scaled, expected, rtol=0.05, atol=0.03)


def test_a_constant_is_zero_and_what_it_has_never_been_is_within_the_limit():
    x = jnp.broadcast_to(jnp.array([0.0, 0.3, -1e6]), (1000, 3))
    seen = moments(x, jnp.ones(1000, bool))
    np.testing.assert_allclose(normalise(x[0], seen), 0, atol=0.1)
    np.testing.assert_array_equal(normalise(jnp.ones(3), seen), 10)


def team(getkey, *features) -> jax.Array:
    """Samples of a team of three: 500 of each feature, (3,) or drawn for each agent."""
    columns = [
        jax.random.normal(getkey(), (500, 3)) * 2 + 5 if one is None
        else jnp.broadcast_to(jnp.array(one), (500, 3))
        for one in features
    ]  # fmt: skip
    return jnp.stack(columns, axis=-1)


def test_agents_with_one_network_are_normalised_by_what_all_have_seen(getkey):
    x = team(getkey, None, None) + jnp.array([[0.0, 1], [10, 1], [20, 1]])
    seen = moments(x, jnp.ones(500, bool))
    every = moments(x.reshape(-1, 2), jnp.ones(1500, bool))
    np.testing.assert_allclose(
        normalise_team(x[0], seen), normalise(x[0], every), rtol=1e-4, atol=1e-5
    )


def test_what_tells_agents_apart_is_left_as_it_is(getkey):
    x = team(getkey, None, [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.3, 45, 0.3])
    scaled = normalise_team(x[7], moments(x, jnp.ones(500, bool)))
    np.testing.assert_array_equal(scaled[:, 1:], x[7][:, 1:])


def test_what_is_the_same_for_all_agents_at_all_times_is_zero(getkey):
    x = team(getkey, None, [0.3, 0.3, 0.3])
    scaled = normalise_team(x[7], moments(x, jnp.ones(500, bool)))
    np.testing.assert_allclose(scaled[:, 1], 0, atol=0.1)


def test_padding_stays_zero_and_does_not_count(getkey):
    x = team(getkey, None, None).at[:, 2, 1].set(0)  # the third has one number less
    scaled = normalise_team(x[7], moments(x, jnp.ones(500, bool)))
    of_two = moments(x[:, :2, 1].reshape(-1), jnp.ones(1000, bool))
    assert scaled[2, 1] == 0
    np.testing.assert_allclose(
        scaled[:2, 1], normalise(x[7, :2, 1], of_two), rtol=1e-4, atol=1e-5
    )

import jax
import jax.numpy as jnp
import numpy as np

from tasks.control.normalisation import (
    merge,
    merge_all,
    moments,
    no_moments,
    normalise,
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


def test_unseen_observations_pass_unscaled_within_the_limit():
    x = jnp.array([-30.0, 0.5])
    np.testing.assert_array_equal(normalise(x, no_moments((2,))), [-10, 0.5])

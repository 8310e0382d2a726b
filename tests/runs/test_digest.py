"""Checksums see each bit and each place, and not where an array lies."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

import eggroll
from eggroll.runs import digest as checks


TYPES = ("float32", "bfloat16", "float16", "int8", "uint32", "bool", "complex64")


def filled(dtype, shape=(6, 8)):
    numbers = np.random.default_rng(0).integers(0, 2, shape) * 3
    return jnp.asarray(numbers, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_parts_on_several_devices_have_the_digest_of_the_whole(dtype):
    array = filled(dtype)
    expected = checks.digest(array)
    sums = checks._sums_of_parts(array)
    assert expected.endswith("".join(f"{int(one):08x}" for one in sums))
    if jax.device_count() >= 8:
        mesh = eggroll.population_mesh(jax.devices()[:8], model=2)
        parts = jax.device_put(array, NamedSharding(mesh, P("model", "population")))
        with jax.transfer_guard("disallow"):
            same = checks._sums_of_parts(parts) if dtype != "bool" else sums
        assert [int(x) for x in same] == [int(x) for x in sums]


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint32"])
def test_any_bit_that_flips_changes_it(dtype):
    whole = np.asarray(filled(dtype, (5, 3)))
    found = {checks.digest(jnp.asarray(whole))}
    bits = whole.view(np.uint8).reshape(-1)
    for byte, bit in itertools.product(range(bits.size), range(8)):
        flipped = bits.copy()
        flipped[byte] ^= 1 << bit
        found.add(checks.digest(jnp.asarray(flipped.view(dtype).reshape(whole.shape))))
    assert len(found) == 1 + 8 * bits.size


def test_what_changes_places_changes_it():
    a = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    others = [a, a[::-1], a[:, ::-1], np.roll(a, 1), a.T, a.reshape(4, 3), a.ravel()]
    assert len({checks.digest(jnp.asarray(x)) for x in others}) == len(others)


def test_the_wide_types_are_those_of_the_host():
    wide = np.arange(4.0)
    with np.errstate(over="ignore"):
        one = checks._sums(np, wide)
        other = checks._sums(np, wide + np.array([0, 0, 0, 1e-15]))
    assert [int(x) for x in one] != [int(x) for x in other]


def test_keys_scalars_and_nothing_have_digests():
    state = {"key": jax.random.key(1), "step": jnp.int32(3), "empty": jnp.zeros((0, 2))}
    found = checks.digests(state)
    assert found["['step']"].startswith("int32[]")
    assert found["['empty']"] == "float32[0, 2]" + 16 * "0"
    other = checks.digests({**state, "key": jax.random.key(2)})
    assert {k for k in found if found[k] != other[k]} == {"['key']"}

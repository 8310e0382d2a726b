"""Programs that nobody had in mind when the rules were written.

For each: members are what they are said to be, their noise is independent from slice to
slice, coverage says what becomes of every leaf, strict refuses what it says is dear,
and what it says is low rank is nowhere in the compiled program for each member.
"""

import collections
import functools
import itertools
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from programs import PROGRAMS, Leaf, Program, told

import eggroll


PAIRS = 131  # enough for statistics; no size of a program is this, or twice this
KEY = jax.random.key(0)
pytestmark = pytest.mark.filterwarnings("ignore:.*low rank at")


@pytest.fixture(
    scope="module",  # so that the tests of one program follow each other
    params=[
        pytest.param(name, marks=[] if program.quick else [pytest.mark.slow])
        for name, program in PROGRAMS.items()
    ],
)
def name(request):
    return request.param


def strategy(program: Program, **settings: Any) -> eggroll.EvolutionStrategy:
    return eggroll.EvolutionStrategy(
        2 * PAIRS, sigma=0.1, rules=program.rules, **settings
    )


class Population(NamedTuple):
    """All members of a program.

    Attributes:
        outputs: of the population.
        members: the parameters of each, written out.
        hlo: what was compiled.
    """

    outputs: Any
    members: Any
    hlo: str


@functools.lru_cache(maxsize=1)
def population(name: str) -> Population:
    program = PROGRAMS[name]
    es, params, x = strategy(program), program.params(), program.argument()
    ask = quick.jit(es.ask(program.apply)).lower(params, KEY, x).compile()
    outputs, generation = ask(params, KEY, x)
    drawn = quick.jit(jax.vmap(lambda i: es.member(generation, params, i)))
    return Population(outputs, drawn(jnp.arange(2 * PAIRS)), ask.as_text() or "")


def matrix_of(leaf: Leaf) -> tuple[int, ...]:
    return tuple(n for d, n in enumerate(leaf.shape) if d not in leaf.stack)


def test_coverage_says_what_becomes_of_each_leaf(name):
    program = PROGRAMS[name]
    params, x = program.params(), program.argument()
    leaves = eggroll.coverage(program.apply, params, x, rules=program.rules).leaves
    declared = [leaf.says for leaf in program.declared()]
    paths = [leaf.layout.path for leaf in leaves]
    said = dict(zip(paths, map(told, leaves), strict=True))
    assert said == dict(zip(paths, declared, strict=True))
    file = program.apply.__module__.split(".")[-1]
    for leaf in leaves:
        if leaf.layout.lost:
            assert re.fullmatch(rf"{file}\.py:\d+", leaf.layout.lost.line)


def test_strict_refuses_exactly_what_is_dear(name):
    program = PROGRAMS[name]
    ask = strategy(program, strict=True).ask(program.apply)
    run = lambda: jax.eval_shape(ask, program.params(), KEY, program.argument())
    operations = "|".join(leaf.at for leaf in program.declared() if leaf.at)
    if operations:
        with pytest.raises(ValueError, match=rf"strict: `({operations})`"):
            run()
    else:
        run()


def test_members_are_those_that_can_be_written_out(name):
    program, (outputs, members, _) = PROGRAMS[name], population(name)
    apply = jax.vmap(lambda params: program.apply(params, program.argument()))
    expected = quick.jit(apply)(members)
    for got, wanted in zip(*map(jax.tree.leaves, (outputs, expected)), strict=True):
        assert got.dtype == wanted.dtype
        a, b = (np.asarray(v.astype(jnp.complex64)) for v in (got, wanted))
        assert np.all(np.isfinite(b))
        bound = program.tolerance * np.max(np.abs(b), initial=1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)
    assert any(np.any(v != v[0]) for v in jax.tree.leaves(expected)), "all are alike"


def sizes(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape in whatever order its dimensions are, without those of size one."""
    return tuple(sorted(n for n in shape if n > 1))


def written_out(leaf: Leaf) -> set[tuple[int, ...]]:
    """The sizes of what has a weight, or a slice of one, for each member or pair."""
    whole, matrix = leaf.shape, matrix_of(leaf)
    shapes = (whole, matrix, (math.prod(whole),), (math.prod(matrix),))
    return {sizes((n, *shape)) for n in (PAIRS, 2 * PAIRS) for shape in shapes}


def test_no_member_has_a_low_rank_weight_of_its_own(name, request):
    shapes = {*re.findall(r"\b[a-z]+\d+\w*\[([\d,]+)\]", population(name).hlo)}
    found = {sizes(map(int, shape.split(","))) for shape in shapes}
    assert any(PAIRS * 2 in shape for shape in found)
    for leaf in PROGRAMS[name].declared():
        if leaf.kind == "low" and not leaf.at and not leaf.is_met:
            assert written_out(leaf) & found == set(), leaf


def test_slices_have_noise_of_their_own(name):
    """The squared correlation of independent ones is one over their elements.

    On average; relative to that, its variance is 8 at most, of two factors each. Where
    a factor of 3 or more elements is shared, it is 3 or more times as large.
    """
    for shape, drawn in slices(name).items():
        for a, b in itertools.combinations(drawn, 2):
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            squares = (np.sum(a * b, axis=1) / norms) ** 2
            relative = np.mean(squares) * math.prod(shape)
            assert abs(relative - 1) < 5 * np.sqrt(8 / PAIRS), shape


def slices(name: str) -> dict[tuple[int, ...], list[np.ndarray]]:
    """For each shape the noise of all slices that have it: (pairs, elements) each."""
    program, found = PROGRAMS[name], collections.defaultdict(list)
    given = program.params(), population(name).members
    pairs = zip(*map(jax.tree.leaves, given), strict=True)
    for leaf, (weight, own) in zip(program.declared(), pairs, strict=True):
        if leaf.evolves and leaf.dtype == "float32":
            noise = np.asarray(own[::2], np.float64) - np.asarray(weight, np.float64)
            stack = [d + 1 for d in leaf.stack]
            noise = np.moveaxis(noise, stack, range(1, 1 + len(stack)))
            noise = noise.reshape(PAIRS, -1, math.prod(matrix_of(leaf)))
            found[matrix_of(leaf)] += [*np.moveaxis(noise, 1, 0)]
    return found

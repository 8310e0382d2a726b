"""A compiler that computes wrongly is noticed, whatever its fault.

Those that are known are in `eggroll.evolution.compilers` and docs/compilers.md; jaxlib
0.10.2 is found out by KNOWN, and by twelve of MANY.
"""

import jax
import numpy as np
import pytest
import quick
from canary import ROUNDING, IntegerProgram, Program, agree, battery, checked


CHUNK = 250  # at most: chunks are evened out, to 241 of 4,097 members for one
KNOWN = Program((4, 16, 16, 2), "shared", 1, "rademacher", 8192)
FEW = [
    KNOWN,
    Program((3, 16, 2), "own", 2, "gaussian", 4097, "outputs"),
    Program((4, 32, 32, 2), "batched", 1, "gaussian", 4098),
    IntegerProgram((4, 16, 16, 2), "shared", 1, "rademacher", 8192),
]
INPUTS = ["shared", "own", "batched"]
SHAPES = [
    (2, 2),
    (4, 16, 16, 2),
    (8, 32, 32, 32, 4),
    (3, 64, 64, 1),
    (16, 128, 8),
    (64, 256, 256, 2),
]
POPULATIONS = [4096, 131_074, 8192, 65_537, 4097]
MANY = [
    *battery(Program, SHAPES, ["shared"], [1], [*POPULATIONS, 16_384], each=6),
    *battery(Program, SHAPES, ["own", "batched"], [1], POPULATIONS, each=2),
    *battery(Program, SHAPES, INPUTS, [2, None], POPULATIONS),
    *battery(IntegerProgram, SHAPES[1:3], INPUTS, [1, 2, None], [8192, 131_074, 4098]),
]


def check(program):
    whole, generation = program.run(chunk=program.population)
    parts, _ = program.run(chunk=CHUNK)
    members = checked(program.population)
    expected = program.expected(generation, members)
    tolerance = program.tolerance(parts)
    assert 100 * tolerance < np.std(expected)  # else it would let anything pass
    agree(parts[members], expected, tolerance)
    agree(whole, parts, tolerance)


@pytest.mark.parametrize("program", FEW, ids=str)
def test_one_chunk_many_chunks_and_numpy_agree(program):
    check(program)


@pytest.mark.slow
@pytest.mark.parametrize("program", MANY, ids=str)
def test_they_agree_for_all_sizes(program):
    check(program)


@pytest.mark.parametrize(
    "program", [KNOWN, pytest.param(FEW[1], marks=pytest.mark.slow)], ids=str
)
def test_gradients_of_one_chunk_and_of_many_agree(program):
    fitness, generation = program.run(CHUNK)
    fitness = fitness.reshape(program.population, -1).sum(axis=1).astype(np.float32)

    def gradient(chunk):
        grads = quick.thorough(program.strategy(chunk).gradient)(generation, fitness)
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(grads)])

    whole, parts = gradient(program.population), gradient(CHUNK)
    tolerance = 8 * ROUNDING * np.sqrt(program.population)
    assert np.linalg.norm(whole - parts) <= tolerance * np.linalg.norm(parts)

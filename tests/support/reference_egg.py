"""EGG in NumPy, written from the paper's formulas and from nothing else.

An independent implementation of the integer language model of "Evolution Strategies at
the Hyperscale" (arXiv 2511.16652): the forward pass, the loss, perturbed operations
and the update. It is what the JAX implementation is
tested against bit for bit, so it imports nothing of ours, works on one member and one
token at a time, computes in int64, divides with ``//`` and looks logarithms up by the
definition of the published table.

Two modes:
    paper: arithmetic shifts (floor), as published; the sign of an antithetic member
        sits on its left factor, before the shift; a vote of zero counts as -1.
    default: shifts and divisions round to nearest, halves away from zero, so that
        antithetic members are exact mirrors; a vote of zero moves nothing.

In both modes a mean absolute value of zero (row 0 of the published division table, a
division by zero) counts as one.
"""

import itertools
import math
from statistics import NormalDist

import numpy as np


FIXED_POINT = 4  # a weight of 16 stands for 1.0

EXP2 = np.array([int(16 * 2 ** (i / 16)) for i in range(256)], np.int64)


def log2_table_entry(total):
    """The entry of the published 2^28-entry table for the sum `total`."""
    return int(16 * math.log2(total / 16))


def saturate(x, bits=8):
    limit = 2 ** (bits - 1) - 1
    return np.clip(x, -limit, limit)


def divide(x, by, mode):
    """x / by for by > 0: floor in paper mode, else nearest, halves away from zero."""
    x = np.asarray(x, np.int64)
    if mode == "paper":
        return x // by
    return np.sign(x) * ((2 * np.abs(x) + by) // (2 * by))


def shift(x, bits, mode):
    """x / 2^bits; a negative number of bits multiplies, exactly."""
    if bits <= 0:
        return np.asarray(x, np.int64) * 2**-bits
    return divide(x, 2**bits, mode)


# ----------------------------------------------------------------- perturbed leaves


class Perturbed:
    """A leaf with one member's noise: weight, factors, the member's sign.

    A matrix has `left` (rows, rank) and `right` (columns, rank); a vector has two
    draws of its own shape with a trailing axis of one.
    """

    def __init__(self, weight, left, right, sign, bits):
        self.weight = np.asarray(weight, np.int64)
        self.left = np.asarray(left, np.int64)
        self.right = np.asarray(right, np.int64)
        self.sign = sign
        self.bits = bits  # the shift that brings left * right to units of the weight


def scaled(product, leaf, mode):
    """The shifted noise of a leaf; `product` is left times right, without the sign."""
    if mode == "paper":
        return shift(leaf.sign * product, leaf.bits, mode)
    return leaf.sign * shift(product, leaf.bits, mode)


def contract(leaf, x, mode):
    """x @ weightᵀ in int64 with the leaf's noise, before any rescaling."""
    if not isinstance(leaf, Perturbed):
        return np.asarray(leaf, np.int64) @ x
    thin = (leaf.right.T @ x) @ leaf.left.T
    return leaf.weight @ x + scaled(thin, leaf, mode)


def lookup(leaf, token, mode):
    """Row `token` of an embedding."""
    if not isinstance(leaf, Perturbed):
        return np.asarray(leaf, np.int64)[token]
    thin = leaf.right @ leaf.left[token]
    return saturate(leaf.weight[token] + scaled(thin, leaf, mode))


def vector(leaf, mode):
    """A bias or a layer norm's weight."""
    if not isinstance(leaf, Perturbed):
        return np.asarray(leaf, np.int64)
    product = (leaf.left * leaf.right).sum(-1)
    return saturate(leaf.weight + scaled(product, leaf, mode))


# ---------------------------------------------------------------- the forward pass


def matmul(leaf, x, mode):
    """u @ M := I8(uM / (16 sqrt(n))), the weight stored (out, in)."""
    bits = FIXED_POINT + int(math.log2(math.isqrt(x.shape[0])))
    return saturate(shift(contract(leaf, x, mode), bits, mode))


def layer_norm(leaf, x, mode):
    """u * w / mean|u|, no mean subtraction."""
    mean = max(int(divide(np.abs(x).sum(), x.shape[0], mode)), 1)
    return saturate(divide(x * vector(leaf, mode), mean, mode))


def gru(layer, x, state, mode):
    forget = saturate(
        matmul(layer["forget_input"], x, mode)
        + matmul(layer["forget_state"], state, mode)
        + vector(layer["forget_bias"], mode)
    )
    gated = shift((forget + 127) * state, 8, mode)
    candidate = saturate(
        matmul(layer["candidate_input"], x, mode)
        + matmul(layer["candidate_state"], gated, mode)
        + vector(layer["candidate_bias"], mode)
    )
    return state + shift((forget + 127) * (candidate - state), 8, mode)


def step(params, state, token, mode):
    """One token: state (layers, width) and a byte -> new state and int8 logits."""
    state = np.zeros_like(state) if token == 0 else state
    new_state = []
    y = lookup(params["embedding"], token, mode)
    for layer, s in zip(params["layers"], state, strict=True):
        s = gru(layer, layer_norm(layer["norm_gru"], y, mode), s, mode)
        new_state.append(s)
        y = saturate(s + y)
        hidden = matmul(layer["expand"], layer_norm(layer["norm_mlp"], y, mode), mode)
        y = saturate(matmul(layer["contract"], hidden, mode) + y)
    logits = matmul(params["head"], layer_norm(params["norm_out"], y, mode), mode)
    return np.stack(new_state), logits


def log_likelihood(logits, target):
    """log2 of the target's probability in 1/16 bit: at most zero up to rounding."""
    shifted = logits + 128
    return int(shifted[target]) - log2_table_entry(int(EXP2[shifted].sum()))


def forward(params, state, tokens, mode):
    """tokens (length + 1): the state after, the summed log-likelihood, all logits."""
    total, logits = 0, []
    for token, target in itertools.pairwise(tokens):
        state, y = step(params, state, int(token), mode)
        total += log_likelihood(y, int(target))
        logits.append(y)
    return state, total, np.stack(logits)


# ----------------------------------------------------------------------- the update


def alpha(t, rate=0.015):
    return 1 / (rate * t + 1)


def z_sixteenths(a):
    """The two-sided z threshold of a share `a` of changed weights, in 1/16."""
    return int(16 * NormalDist().inv_cdf(1 - a / 2)) if a < 1 else 0


def threshold(a, pairs, unit_bits=8):
    """Votes needed to move a weight; noise products have std 2^unit_bits."""
    return (z_sixteenths(a) * math.isqrt(pairs) * 2**unit_bits) // 16


def pair_sign(fitness):
    """(members,) -> (pairs,): the sign of each antithetic pair's difference."""
    fitness = np.asarray(fitness, np.int64)
    return np.sign(fitness[0::2] - fitness[1::2])


def pair_difference(fitness):
    """(members,) -> (pairs,): each difference in 32nds of their mean size, int8."""
    fitness = np.asarray(fitness, np.int64)
    difference = fitness[0::2] - fitness[1::2]
    size = max(np.abs(difference).sum() // len(difference), 1)
    return saturate(divide(32 * difference, size, "default"))


def votes(signs, left, right, is_matrix):
    """Sum over pairs of sign * left * right; factors (pairs, rows, rank) &c."""
    left, right = np.asarray(left, np.int64), np.asarray(right, np.int64)
    if is_matrix:
        return np.einsum("p,pir,pjr->ij", signs, left, right)
    return np.einsum("p,pir,pir->i", signs, left, right)


def update(weight, vote, needed, mode):
    """Move each weight by one towards its vote where the vote reaches `needed`."""
    direction = np.sign(vote)
    if mode == "paper":
        direction = np.where(vote > 0, 1, -1)
    moved = np.where(np.abs(vote) >= needed, direction, 0)
    return saturate(np.asarray(weight, np.int64) + moved)


def accumulate(weight, rest, vote, std, needed, leak=None):
    """Integer momentum: add votes in 1/16 std, move by the whole thresholds in the sum.

    The accumulator (int16) first loses 1/2^leak of itself, and pays for each move.
    """
    rest = np.asarray(rest, np.int64)
    if leak is not None:
        rest = rest - divide(rest, 2**leak, "default")
    total = saturate(rest + divide(16 * vote, std, "default"), 16)
    moves = np.sign(total) * (np.abs(total) // needed)
    return saturate(np.asarray(weight, np.int64) + moves), total - moves * needed

"""Weights that are made of other weights, and weights of odd kinds and places."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import eggroll
from programs.registry import frozen, full, lost, low, program


@program(
    {"v": low(11, 13, at="integer_pow"), "g": full(13), "b": full(13)},
    (5, 11),
    quick=True,
)
def weight_norm(p, x):
    length = jnp.sqrt(jnp.sum(p["v"] ** 2, axis=0))
    return x @ (p["v"] * (p["g"] / length)) + p["b"]


@program(
    {"w": low(11, 13)},
    (5, 11),
)
def spectral_norm(p, x):
    """(Its length is a number, which stays apart.)"""
    u = jnp.ones(13)
    for _ in range(2):
        v = p["w"] @ u
        v = v / jnp.linalg.norm(v)
        u = p["w"].T @ v
        u = u / jnp.linalg.norm(u)
    return x @ (p["w"] / (v @ p["w"] @ u))


@program({"w": lost("mul", 11, 13), "v": low(13, 7)}, (5, 11))
def pruned_element_by_element(p, x):
    mask = np.arange(143).reshape(11, 13) % 3 > 0
    return jnp.tanh(x @ (p["w"] * mask)) @ p["v"]


@program({"w": low(11, 13), "v": low(13, 7)}, (5, 11))
def pruned_unit_by_unit(p, x):
    kept = np.arange(13) % 3 > 0
    return jnp.tanh(x @ jnp.where(kept, p["w"], 0)) @ (p["v"] * kept[:, None])


@program({"w": lost("mul", 11, 11), "v": lost("mul", 11, 7)}, (5, 11))
def masked_autoregressive_layers(p, x):
    order = np.arange(11)
    return jnp.tanh(x @ (p["w"] * (order[:, None] < order))) @ (
        p["v"] * (order[:, None] <= np.arange(7))
    )


@program({"w": lost("abs", 11, 13), "v": low(13, 7)}, (5, 11))
def fake_quantisation_of_weights(p, x):
    scale = jnp.max(jnp.abs(p["w"])) / 7
    rounded = jnp.round(p["w"] / scale) * scale
    return x @ (p["w"] + lax.stop_gradient(rounded - p["w"])) @ p["v"]


@program({"w": low(11, 13), "v": low(13, 7)}, (5, 11), tolerance=0.2)
def fake_quantisation_of_activations(p, x):
    """(A number that rounding brings to the other side of a half is a step off.)"""

    def rounded(x):
        scale = jnp.max(jnp.abs(x)) / 15
        return x + lax.stop_gradient(jnp.round(x / scale) * scale - x)

    return rounded(jnp.tanh(rounded(x) @ p["w"])) @ p["v"]


INT8 = jnp.asarray(np.random.default_rng(2).integers(-127, 128, (11, 13)), jnp.int8)


@program({"q": INT8, "scale": full(13), "v": low(13, 7)}, (5, 11))
def whole_weights_with_scales(p, x):
    """Whole numbers are left alone; their scales evolve, behind the product."""
    return ((x @ p["q"].astype(jnp.float32)) * p["scale"] / 127) @ p["v"]


@program({"w": lost("abs", 11, 13), "v": low(13, 7)}, (5, 11))
def ternary_weights(p, x):
    scale = jnp.mean(jnp.abs(p["w"]))
    return x @ (jnp.sign(p["w"]) * scale) @ p["v"]


@program({"re": low(11, 13), "im": low(11, 13), "out": low(26, 7)}, (5, 11), quick=True)
def complex_pairs(p, x):
    h = x @ (p["re"] + 1j * p["im"])
    h = h * jax.nn.relu(jnp.abs(h) - 0.1)
    return jnp.concatenate([h.real, h.imag], axis=1) @ p["out"]


@program({"a": low(3, 5, 7, stack=(0,)), "b": low(7, 3, 4, stack=(0,))}, (2, 15))
def monarch_matrices(p, x):
    """Two products with blocks along the diagonal, and a permutation between."""
    h = jnp.einsum("tgi,gio->tog", x.reshape(2, 3, 5), p["a"])
    return jnp.einsum("toi,oij->tjo", h, p["b"]).reshape(2, 28)


@program({"a": lost("mul", 3, 5), "b": lost("mul", 4, 2)}, (5, 12))
def kronecker_product(p, x):
    return x @ jnp.kron(p["a"], p["b"])


@program({"w": lost("sub", 7, 7)}, (5, 7))
def orthogonal_by_cayley(p, x):
    skew = p["w"] - p["w"].T
    return jnp.linalg.solve(jnp.eye(7) + skew, (jnp.eye(7) - skew) @ x.T)


@program({"first": full(11), "rest": full(10)}, (5, 11))
def toeplitz_matrix(p, x):
    numbers = jnp.concatenate([p["rest"][::-1], p["first"]])
    place = np.arange(11)[:, None] - np.arange(11) + 10
    return x @ numbers[place]


@program({"w": low(5, 7, 3, cols=(0, 2)), "b": full(3)}, (4, 12))
def bilinear_layer(p, x):
    return jnp.einsum("ti,tj,ijo->to", x[:, :5], x[:, 5:], p["w"]) + p["b"]


@program({"code": low(5, 11), "make": low(11, 77)}, jnp.ones((3, 11)))
def network_that_makes_weights(p, x):
    """A code for each of five layers, of which one is made into a matrix."""
    w = (p["code"][jnp.argmax(x[:, 0])] @ p["make"]).reshape(11, 7)
    return x @ w


@program({"w": low(11, 13), "again": low(11, 13)}, (5, 11))
def sums_and_differences_of_weights(p, x):
    return x @ (p["w"] - p["again"]), x @ (p["w"] + 2 * p["again"])


class Pair(NamedTuple):
    weight: Any
    bias: Any


@program(
    (
        [Pair(low(11, 13), full(13)), None, {}],
        {"7": (low(13, 7), jnp.arange(3), ()), "number": full(), "name": None},
    ),
    (5, 11),
    quick=True,
)
def odd_pytree(p, x):
    (pair, *_), named = p
    w, shift, _ = named["7"]
    h = jnp.tanh(x @ pair.weight + pair.bias)
    return (h @ w)[:, shift] * named["number"]


@program(low(11, 13), (5, 11))
def parameters_that_are_one_array(w, x):
    return jnp.tanh(x @ w) @ w.T


@program(
    {"w": low(11, 13, dtype="bfloat16"), "b": full(13, dtype="bfloat16")}
    | {"norm": full(13, mean=1.0), "v": low(13, 7, dtype="bfloat16")},
    (5, 11),
    tolerance=2**-6,
)
def bfloat16_with_a_float32_norm(p, x):
    h = x.astype(jnp.bfloat16) @ p["w"] + p["b"]
    h = h.astype(jnp.float32)
    h = h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-5) * p["norm"]
    return h.astype(jnp.bfloat16) @ p["v"]


@program({"w": low(11, 13, dtype="float16"), "v": low(13, 7)}, (5, 11), tolerance=2**-9)
def widened_from_float16(p, x):
    return jnp.tanh(x @ p["w"].astype(jnp.float32)) @ p["v"]


@program(
    {"w": low(11, 13), "full": full(13, 7), "still": frozen(7, 5)},
    (5, 11),
    rules={"full": eggroll.full_rank(), "still": eggroll.frozen},
)
def a_rule_for_each_leaf(p, x):
    return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["full"]) @ p["still"]


@program({"w": low(11, 13), "v": low(13, 11)}, (5, 11))
def linear_map_used_from_both_sides(p, x):
    """An autoencoder with tied weights, and a penalty on its code."""
    code = jax.nn.relu(x @ p["w"])
    return code @ p["w"].T + code @ p["v"], jnp.sum(jnp.abs(code))


@program(
    {"cores": low(3, 5, 5, 2, stack=(0,), cols=(2, 3)), "out": low(5, 7)},
    jnp.array([[0, 1, 1], [1, 0, 1]]),
)
def tensor_train(p, words):
    """A product of matrices, one for each letter at each place."""

    def step(state, given):
        core, letter = given
        mixed = jnp.einsum("bi,ijk->bjk", state, core)
        return jnp.take_along_axis(mixed, letter[:, None, None], 2)[..., 0], None

    return lax.scan(step, jnp.ones((2, 5)), (p["cores"], words.T))[0] @ p["out"]

"""EGG, a recurrent language model in plain integer arithmetic.

Embedding, stacked blocks of layer norm, GRU and MLP, and a head; int8 parameters and
activations, int32 accumulation, no activation functions: what is not linear is the
saturation. An integer stands for itself divided by 16.

The parameters are a pytree of int8 arrays and the model is a few pure functions of
one sequence. It knows nothing of evolution: `jax.vmap` batches it, and it runs as it
is under a transformation that perturbs its parameters. Layers are unrolled rather
than scanned, as slicing stacked int8 weights costs more than multiplying by them.

References:
    Sarkar et al., "Evolution Strategies at the Hyperscale", 2025, section 7 and
    appendix, https://arxiv.org/abs/2511.16652.
"""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Int8, Int32, Integer, PRNGKeyArray

from models.integer_math import (
    LIMIT,
    Rounding,
    divide,
    exp2_sixteenths,
    log2_sixteenths,
    saturate,
    shift_right,
)


Params: TypeAlias = dict[str, Any]
State: TypeAlias = tuple[Int8[Array, " width"], ...]

FIXED_POINT = 4  # bits after the binary point: 16 stands for 1.0


@dataclasses.dataclass(frozen=True)
class Egg:
    """The integer language model: its sizes, and the functions that run it.

    Attributes:
        layers: Number of blocks.
        width: Width of the residual stream, a power of 4, so that dividing by its
            square root is a shift.
        vocabulary: Number of tokens. At most 256, or 2048 when rounding to nearest:
            the sum in the loss has to fit 28, respectively 31 bits.
        rounding: What a right shift or a division does with the remainder.
            `"floor"` drops it, as published, which pulls every activation down by
            half a unit; `"nearest"` does not.
        separator: The token that starts a document: it resets the state.
    """

    layers: int = 2
    width: int = 64
    vocabulary: int = 256
    rounding: Rounding = "nearest"
    separator: int = 0

    def __post_init__(self):
        if self.layers < 1:
            raise ValueError(f"EGG needs at least one layer, got {self.layers=}.")
        if self.rounding not in ("nearest", "floor"):
            raise ValueError(
                f'rounding must be "nearest" or "floor", got {self.rounding!r}.'
            )
        if self.width < 4 or 4 ** _log4(self.width) != self.width:
            below = 4 ** max(_log4(self.width), 1)
            raise ValueError(
                "EGG divides by the square root of its width with a shift, so the "
                f"width must be a power of 4; got {self.width}: take {below} or "
                f"{4 * below}."
            )
        most = 256 if self.rounding == "floor" else 2048
        if not 2 <= self.vocabulary <= most:
            raise ValueError(
                f"The vocabulary must have 2 to {most} tokens with "
                f"rounding={self.rounding!r}, got {self.vocabulary}: more would "
                "overflow the integer loss. Use bytes, or a smaller tokeniser."
            )

    def init(self, key: PRNGKeyArray) -> Params:
        """Draw the parameters: matrices round(16 N(0, 1)), norms 16, biases 0.

        Matrices are stored (out, in).
        """
        width, hidden = self.width, 4 * self.width
        keys = iter(jr.split(key, 2 + 6 * self.layers))

        def matrix(rows: int, columns: int) -> Int8[Array, "rows columns"]:
            scale = 2**FIXED_POINT
            draw = scale * jr.normal(next(keys), (rows, columns))
            return jnp.clip(jnp.round(draw), -LIMIT, LIMIT).astype(jnp.int8)

        def constant(value: int) -> Int8[Array, " width"]:
            return jnp.full(width, value, jnp.int8)

        def block() -> Params:
            return {
                "norm_gru": constant(2**FIXED_POINT),
                "forget_input": matrix(width, width),
                "forget_state": matrix(width, width),
                "forget_bias": constant(0),
                "candidate_input": matrix(width, width),
                "candidate_state": matrix(width, width),
                "candidate_bias": constant(0),
                "norm_mlp": constant(2**FIXED_POINT),
                "expand": matrix(hidden, width),
                "contract": matrix(width, hidden),
            }

        return {
            "embedding": matrix(self.vocabulary, width),
            "layers": [block() for _ in range(self.layers)],
            "norm_out": constant(2**FIXED_POINT),
            "head": matrix(self.vocabulary, width),
        }

    def initial_state(self) -> State:
        """The state at the start of a document: one row of zeros per layer."""
        return tuple(jnp.zeros(self.width, jnp.int8) for _ in range(self.layers))

    def step(
        self, params: Params, state: State, token: Integer[Array, ""]
    ) -> tuple[State, Int8[Array, " vocabulary"]]:
        """Read one token; return the new state and the logits of the next token.

        Probabilities are proportional to 2^(logit / 16).
        """
        state, logits, _ = self.activations(params, state, token)
        return state, logits

    def activations(
        self, params: Params, state: State, token: Integer[Array, ""]
    ) -> tuple[State, Int8[Array, " vocabulary"], dict[str, Int8[Array, "..."]]]:
        """Like `step`, with the residual stream after each stage, by name."""
        keep = token.astype(jnp.int32) != self.separator
        seen, new_state = {}, []
        y = _stage(params["embedding"][token.astype(jnp.int32)])
        seen["embedding"] = y
        for index, (block, s) in enumerate(zip(params["layers"], state, strict=True)):
            s = self._gru(
                block, self._norm(block["norm_gru"], y), jnp.where(keep, s, 0)
            )
            y = _add(s, y)
            hidden = self._matmul(block["expand"], self._norm(block["norm_mlp"], y))
            y = _add(self._matmul(block["contract"], hidden), y)
            new_state.append(s)
            seen |= {f"layers/{index}/state": s, f"layers/{index}/hidden": hidden}
            seen[f"layers/{index}/out"] = y
        logits = self._matmul(params["head"], self._norm(params["norm_out"], y))
        seen["logits"] = logits
        return tuple(new_state), logits, seen

    def log_likelihood(
        self, params: Params, state: State, tokens: Integer[Array, " tokens"]
    ) -> tuple[Int32[Array, ""], State]:
        """Sum the log2-probability of each token given those before it, in 1/16 bit.

        Args:
            params: As from `init`.
            state: As from `initial_state` or from the previous call.
            tokens: The first is only read, the last only predicted.

        Returns:
            The sum over `len(tokens) - 1` predictions (bits a token are minus this,
            over 16 and over the number of tokens) and the state after them.
        """

        def predict(carry, pair):
            state, total = carry
            token, target = pair
            state, logits = self.step(params, state, token)
            return (state, total + log_probability(logits, target)), None

        start = (state, jnp.zeros((), jnp.int32))
        (state, total), _ = lax.scan(predict, start, (tokens[:-1], tokens[1:]))
        return total, state

    def _matmul(
        self, weight: Int8[Array, "rows columns"], x: Int8[Array, " columns"]
    ) -> Int8[Array, " rows"]:
        r"""$I_8(x W^\top / (16 \sqrt n))$: the product of two numbers in 1/16."""
        product = lax.dot_general(
            x, weight, (((0,), (1,)), ((), ())), preferred_element_type=jnp.int32
        )
        bits = FIXED_POINT + _log4(x.shape[0])
        return _stage(saturate(shift_right(product, bits, self.rounding)))

    def _norm(
        self, weight: Int8[Array, " width"], x: Int8[Array, " width"]
    ) -> Int8[Array, " width"]:
        r"""$x \odot w / \overline{|x|}$, no centring; an empty mean counts as one."""
        x = x.astype(jnp.int32)
        total = jnp.sum(jnp.abs(x), dtype=jnp.int32)
        mean = shift_right(total, 2 * _log4(self.width), self.rounding)
        x = x * weight.astype(jnp.int32)
        return _stage(divide(x, jnp.maximum(mean, 1), self.rounding))

    def _gru(
        self, block: Params, x: Int8[Array, " width"], state: Int8[Array, " width"]
    ) -> Int8[Array, " width"]:
        """The gated recurrent unit, with identities for its sigmoid and its tanh."""
        forget = _add(
            self._matmul(block["forget_input"], x),
            self._matmul(block["forget_state"], state),
            block["forget_bias"],
        )
        gate = forget.astype(jnp.int32) + LIMIT  # 0 ... 254, out of 256
        state_ = state.astype(jnp.int32)
        gated = shift_right(gate * state_, 8, self.rounding).astype(jnp.int8)
        candidate = _add(
            self._matmul(block["candidate_input"], x),
            self._matmul(block["candidate_state"], gated),
            block["candidate_bias"],
        )
        change = gate * (candidate.astype(jnp.int32) - state_)
        state_ = state_ + shift_right(change, 8, self.rounding)
        return _stage(state_.astype(jnp.int8))


def _stage(x: Int8[Array, "*shape"]) -> Int8[Array, "*shape"]:
    """Mark the end of a stage, whose int8 result is worth keeping in memory.

    XLA's CPU backend would rather compute a chain of elementwise operations anew in
    each of its consumers, which doubles the cost of the forward pass. (That backend
    drops the mark before it could matter, unless told not to.) Others know better: on
    an H100 a perturbed forward pass takes 0.84 of the time without marks.
    """
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def log_probability(
    logits: Int8[Array, " vocabulary"], target: Integer[Array, ""]
) -> Int32[Array, ""]:
    r"""Return $y_t + 128 - 16 \log_2 \sum_i 2^{(y_i + 128)/16}$, in 1/16 bit."""
    total = jnp.sum(exp2_sixteenths(logits), dtype=jnp.int32)
    chosen = logits[target.astype(jnp.int32)].astype(jnp.int32) + 128
    return chosen - log2_sixteenths(total)


def _add(*terms: Int8[Array, " width"]) -> Int8[Array, " width"]:
    """The saturated sum."""
    first, *others = (term.astype(jnp.int32) for term in terms)
    return _stage(saturate(sum(others, start=first)))


def _log4(x: int) -> int:
    """The logarithm of x to base 4, rounded down: the bits of its square root."""
    return (x.bit_length() - 1) // 2

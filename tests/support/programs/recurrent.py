"""Recurrences: gated, linear, complex, associative."""

import jax
import jax.numpy as jnp
from jax import lax

import eggroll
from programs.registry import frozen, full, lost, low, program


def linear_scan(decay, values):
    """All states of h = decay h + value, by an associative scan over time."""
    combine = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])
    return lax.associative_scan(combine, (decay, values))[1]


@program(
    {"mix": full(3, 11), "r": low(11, 11), "k": low(11, 11), "v": low(11, 11)}
    | {"decay": full(11), "bonus": full(11), "o": low(11, 11)},
    (5, 11),
)
def rwkv_like(p, x):
    """Time mixing: a sum over the past in which each channel decays at its rate."""
    before = jnp.pad(x, ((1, 0), (0, 0)))[:-1]
    mixed = [x + jax.nn.sigmoid(m) * (before - x) for m in p["mix"]]
    r, k, v = (m @ p[name] for m, name in zip(mixed, "rkv", strict=True))

    def step(state, given):
        above, below = state
        k, v = given
        now = jnp.exp(p["bonus"] + k)
        out = (above + now * v) / (below + now)
        kept = jnp.exp(-jnp.exp(p["decay"]))
        return (kept * above + jnp.exp(k) * v, kept * below + jnp.exp(k)), out

    zero = jnp.zeros(11)
    _, out = lax.scan(step, (zero, zero), (k, v))
    return (jax.nn.sigmoid(r) * out) @ p["o"]


@program(
    {"k": low(11, 7), "v": low(11, 13), "q": low(11, 7), "beta": low(11, 7)},
    (5, 11),
    quick=True,
)
def delta_rule(p, x):
    """Fast weights: a matrix as the state, corrected by outer products."""

    def step(state, x):
        k = x @ p["k"]
        k = k / (jnp.linalg.norm(k) + 1e-3)
        rate = jax.nn.sigmoid(x @ p["beta"])
        state = state + jnp.outer(rate * k, x @ p["v"] - k @ state)
        return state, (x @ p["q"]) @ state

    return lax.scan(step, jnp.zeros((7, 13)), x)[1]


@program(
    {
        "in": low(11, 26),
        "conv": low(3, 1, 13, is_met=True),
        "to_state": low(13, 5 + 4 + 4),
        "step": low(5, 13),
        "a": lost("exp", 13, 4),
        "d": full(13),
        "out": low(13, 11),
    },
    (6, 11),
)
def mamba_like(p, x):
    """A selective state space: step, input and output depend on the token."""
    h, gate = jnp.split(x @ p["in"], 2, axis=-1)
    h = lax.conv_general_dilated(
        h[None],
        p["conv"],
        (1,),
        [(2, 0)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=13,
    )[0]
    h = jax.nn.silu(h)
    step, b, c = jnp.split(h @ p["to_state"], [5, 9], axis=-1)
    step = jax.nn.softplus(step @ p["step"])
    decay = jnp.exp(step[:, :, None] * -jnp.exp(p["a"]))
    states = linear_scan(decay, (step * h)[:, :, None] * b[:, None, :])
    y = jnp.einsum("tds,ts->td", states, c) + h * p["d"]
    return (y * jax.nn.silu(gate)) @ p["out"]


@program(
    {"nu": full(7), "theta": full(7), "d": full(11)}
    | {"b_re": low(11, 7), "b_im": low(11, 7), "c_re": low(7, 11), "c_im": low(7, 11)},
    (6, 11),
)
def linear_recurrent_unit(p, x):
    decay = jnp.exp(-jnp.exp(p["nu"]) + 1j * jnp.exp(p["theta"]))
    inputs = x.astype(jnp.complex64) @ (p["b_re"] + 1j * p["b_im"])
    inputs = inputs * jnp.sqrt(1 - jnp.abs(decay) ** 2)
    states = linear_scan(jnp.broadcast_to(decay, inputs.shape), inputs)
    return (states @ (p["c_re"] + 1j * p["c_im"])).real + p["d"] * x


@program(
    {"rate": full(7, mean=1.0), "angle": full(7), "step": full(7)}
    | {"b": low(7, 11, 2, stack=(2,), cols=(0,)), "c": low(2, 5, 7, stack=(0,))},
    (6, 11),
)
def s5_like(p, x):
    """Discretised by zero-order hold: the matrix B is scaled by what evolves."""
    rates = -jnp.exp(p["rate"]) + 1j * p["angle"]
    step = jnp.exp(p["step"])
    decay = jnp.exp(rates * step)
    b = ((decay - 1) / rates)[:, None] * lax.complex(p["b"][..., 0], p["b"][..., 1])
    inputs = x @ b.T
    states = linear_scan(jnp.broadcast_to(decay, inputs.shape), inputs)
    return (states @ lax.complex(*p["c"]).T).real


@program({"z": low(11, 13), "h": low(11, 13), "out": low(13, 7)}, (6, 11))
def minimal_gru_by_an_associative_scan(p, x):
    z = jax.nn.sigmoid(x @ p["z"])
    return linear_scan(1 - z, z * jnp.tanh(x @ p["h"])) @ p["out"]


@program({"w": low(24, 4 * 13), "b": full(4 * 13)}, (5, 11))
def lstm_of_one_matrix(p, xs):
    def step(state, x):
        h, c = state
        gates = jnp.concatenate([x, h]) @ p["w"] + p["b"]
        i, f, g, o = gates.reshape(4, 13)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(step, (jnp.zeros(13), jnp.zeros(13)), xs)


@program(
    {"in": frozen(11, 17), "w": frozen(17, 17), "out": low(17, 7)},
    (5, 11),
    rules={"out": eggroll.low_rank(), "**": eggroll.frozen},
)
def echo_state_network(p, xs):
    step = lambda h, x: (jnp.tanh(x @ p["in"] + h @ p["w"]),) * 2
    return lax.scan(step, jnp.zeros(17), xs)[1] @ p["out"]


@program({"w": low(2, 11, 11, stack=(0,)), "u": low(2, 7, 11, stack=(0,))}, (5, 7))
def both_directions(p, xs):
    def one(w, u, xs):
        return lax.scan(lambda h, x: (jnp.tanh(h @ w + x @ u),) * 2, jnp.zeros(11), xs)

    _, forth_and_back = jax.vmap(one)(p["w"], p["u"], jnp.stack([xs, xs[::-1]]))
    return forth_and_back[0] + forth_and_back[1, ::-1]


@program({"w": low(11, 11, spread=0.1), "u": low(7, 11)}, (7,), tolerance=1e-4)
def fixed_point_in_a_while(p, x):
    """A deep equilibrium: iterated until it moves no more."""
    drive = x @ p["u"]

    def moves(carry):
        old, new, turns = carry
        return (jnp.max(jnp.abs(new - old)) > 1e-4) & (turns < 30)

    turn = lambda carry: (carry[1], jnp.tanh(carry[1] @ p["w"] + drive), carry[2] + 1)
    return lax.while_loop(moves, turn, (drive + 1, drive, 0))[1]


@program(
    {
        "decay": full(2),
        "q": low(11, 2, 7, cols=(1, 2)),
        "kv": low(11, 2, 2, 7, cols=(1, 2, 3)),
    },
    (6, 11),
)
def retention_in_chunks(p, x):
    """Attention within a chunk, a decaying state between chunks."""
    rate = jax.nn.sigmoid(p["decay"] + 2)
    gap = jnp.arange(3)[:, None] - jnp.arange(3)
    inside = jnp.where(gap >= 0, rate[:, None, None] ** gap, 0)

    def chunk(state, x):
        q = jnp.einsum("td,dhk->htk", x, p["q"])
        k, v = jnp.einsum("td,dnhk->nhtk", x, p["kv"])
        ages = jnp.arange(3)
        kept = rate[:, None, None] ** (ages[:, None] + 1)
        out = (inside * (q @ k.mT)) @ v + kept * (q @ state)
        aged = k * rate[:, None, None] ** (2 - ages[:, None])
        return rate[:, None, None] ** 3 * state + aged.mT @ v, out

    return lax.scan(chunk, jnp.zeros((2, 7, 7)), x.reshape(2, 3, 11))


@program(
    {"filter_in": low(3, 13), "filter_out": low(13, 11), "in": low(11, 22)},
    (8, 11),
)
def long_convolution_by_fft(p, x):
    """Filters as long as the sequence, made by a network of the time (Hyena)."""
    time = jnp.linspace(0, 1, 8)[:, None]
    features = jnp.concatenate([time, jnp.sin(6 * time), jnp.cos(6 * time)], axis=1)
    filters = jnp.sin(features @ p["filter_in"]) @ p["filter_out"] * jnp.exp(-3 * time)
    value, gate = jnp.split(x @ p["in"], 2, axis=1)
    spectrum = jnp.fft.rfft(value, 16, axis=0) * jnp.fft.rfft(filters, 16, axis=0)
    return gate * jnp.fft.irfft(spectrum, 16, axis=0)[:8]

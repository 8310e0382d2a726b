"""Science: derivatives of networks, equations solved, densities, fields."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.ode import odeint

from programs.registry import full, lost, low, program


FIELD = {"w": low(2, 11), "b": full(11), "v": low(11, 13), "u": low(13, 3)}
# (Its Jacobian has the size of the first weight.)
SCALAR = FIELD | {"w": low(2, 11, is_met=True), "u": full(13, 1)}


def field(p, x):
    return jnp.tanh(jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]) @ p["u"]


@program(SCALAR, (3, 2), tolerance=1e-4)
def residual_of_an_equation_with_hessians(p, points):
    u = lambda x: field(p, x)[0]
    curvature = jax.vmap(lambda x: jnp.trace(jax.hessian(u)(x)))(points)
    return curvature + jax.vmap(u)(points) ** 3


@program(SCALAR, (3, 2), tolerance=1e-4)
def laplacian_by_forward_derivatives(p, points):
    u = lambda x: field(p, x)[0]

    def second(x, direction):
        slope = lambda x: jax.jvp(u, (x,), (direction,))[1]
        return jax.jvp(slope, (x,), (direction,))[1]

    both = jax.vmap(second, (None, 0))
    return jax.vmap(lambda x: both(x, jnp.eye(2)).sum())(points)


@program(FIELD | {"w": low(3, 11)}, (3,), tolerance=1e-3)
def ordinary_differential_equation(p, start):
    return odeint(lambda y, t: field(p, y), start, jnp.linspace(0, 1, 3), rtol=1e-4)


@program(FIELD | {"w": low(3, 11)}, (3,), quick=True)
def runge_kutta_in_a_scan(p, start):
    def step(y, h):
        a = field(p, y)
        b = field(p, y + h / 2 * a)
        c = field(p, y + h / 2 * b)
        d = field(p, y + h * c)
        y = y + h / 6 * (a + 2 * b + 2 * c + d)
        return y, y

    return lax.scan(step, start, np.full(3, 0.1, np.float32))


@program(SCALAR, (2,), tolerance=1e-4)
def hamiltonian_network(p, state):
    """Moved by the gradient of a network with respect to its input."""
    slope = jax.grad(lambda x: field(p, x)[0])

    def leap(state, _):
        dq, dp = slope(state)
        return state + 0.1 * jnp.stack([dp, -dq]), None

    return lax.scan(leap, state, length=3)[0]


@program(FIELD | {"w": low(3, 11)}, (6, 3), tolerance=1e-3)
def ridge_regression_on_features(p, x):
    """Solved exactly inside: gradients, if there were some, would be implicit."""
    h = field(p, x)
    solve = lambda b: jnp.linalg.solve(h.T @ h + jnp.eye(3), b)
    return h @ solve(h.T @ jnp.sin(x[:, :1]))


@program(
    {"w": lost("custom_linear_solve", 7, 7, spread=0.1), "v": low(11, 7)},
    (11,),
    tolerance=1e-3,
)
def conjugate_gradients_with_a_weight(p, x):
    matrix = lambda v: v + p["w"].T @ (p["w"] @ v)
    return jax.scipy.sparse.linalg.cg(matrix, x @ p["v"], maxiter=7)[0]


@program(
    {"w": low(7, 7, spread=0.1, is_met=True), "u": low(11, 7)}, (11,), tolerance=1e-3
)
def a_root_found_by_newton(p, x):
    drive = x @ p["u"]
    gap = lambda y: y - jnp.tanh(y @ p["w"] + drive)
    step = lambda y, _: (y - jnp.linalg.solve(jax.jacfwd(gap)(y), gap(y)), None)
    return lax.scan(step, drive, length=3)[0]


@program(
    {"lift": low(2, 7), "re": low(3, 7, 7, stack=(0,)), "im": low(3, 7, 7, stack=(0,))}
    | {"w": low(7, 7), "out": full(7, 1)},
    (8, 2),
)
def fourier_neural_operator(p, x):
    h = x @ p["lift"]
    modes = jnp.fft.rfft(h, axis=0)[:3]
    mixed = jnp.einsum("ki,kio->ko", modes, p["re"] + 1j * p["im"])
    h = jnp.fft.irfft(jnp.pad(mixed, ((0, 2), (0, 0))), 8, axis=0) + h @ p["w"]
    return jax.nn.gelu(h) @ p["out"]


@program(
    {"hidden": [low(3, 11), low(4, 11)], "out": [low(11, 8), low(11, 6)]},
    (5, 7),
)
def coupling_flow(p, x):
    """A density by changes of variables, half of them at a time."""
    change = 0.0
    for w, v, sizes in zip(p["hidden"], p["out"], ((3, 4), (4, 3)), strict=True):
        fixed, moved = x[:, : sizes[0]], x[:, sizes[0] :]
        scale, shift = jnp.split(jnp.tanh(fixed @ w) @ v, 2, axis=1)
        x = jnp.concatenate([moved * jnp.exp(jnp.tanh(scale)) + shift, fixed], axis=1)
        change = change + jnp.tanh(scale).sum(1)
    return change - jnp.sum(x**2, axis=1) / 2


@program({"w": low(5, 5, at="lu"), "v": low(5, 7)}, (4, 5), tolerance=1e-3)
def invertible_mixing_of_channels(p, x):
    return (x @ p["w"]) @ p["v"], jnp.linalg.slogdet(p["w"])[1]


@program({"in": low(12, 11), "density": full(11, 1), "colour": low(11, 3)}, (2, 5, 3))
def radiance_field(p, points):
    """Colours of rays: positions in waves, a network, light that is absorbed."""
    waves = points[..., None] * 2.0 ** jnp.arange(2)
    waves = jnp.concatenate([jnp.sin(waves), jnp.cos(waves)], -1).reshape(2, 5, 12)
    h = jax.nn.relu(waves @ p["in"])
    absorbed = 1 - jnp.exp(-jax.nn.softplus(h @ p["density"]))
    through = jnp.cumprod(1 - absorbed + 1e-6, axis=1)
    return jnp.sum(jax.nn.sigmoid(h @ p["colour"]) * absorbed * through, axis=1)


@program({"a": low(11, 7), "b": low(11, 7)}, (2, 5, 11), tolerance=1e-4)
def transport_between_two_sets(p, sets):
    """Sinkhorn's iterations in a while, on costs between learnt features."""
    a, b = sets[0] @ p["a"], sets[1] @ p["b"]
    cost = jnp.sum((a[:, None] - b) ** 2, axis=-1)

    def turn(carry):
        i, f, g = carry
        f = -jax.nn.logsumexp(g - cost, axis=1)
        return i + 1, f, -jax.nn.logsumexp(f[:, None] - cost, axis=0)

    start = (0, jnp.zeros(5), jnp.zeros(5))
    _, f, g = lax.while_loop(lambda carry: carry[0] < 4, turn, start)
    return jnp.sum(jnp.exp(f[:, None] + g - cost) * cost)


@program({"w": low(3, 11), "v": low(11, 5)}, (6, 3), tolerance=1e-3)
def gaussian_process_on_features(p, x):
    h = jnp.tanh(x @ p["w"]) @ p["v"]
    kernel = jnp.exp(-jnp.sum((h[:, None] - h) ** 2, axis=-1)) + 0.1 * jnp.eye(6)
    half = jnp.linalg.cholesky(kernel)
    white = jax.scipy.linalg.solve_triangular(half, x[:, 0], lower=True)
    return -jnp.sum(white**2) / 2 - jnp.sum(jnp.log(jnp.diag(half)))


@program(
    {"in": low(11, 5), "codes": low(17, 5, at="integer_pow"), "out": low(5, 11)},
    (6, 11),
)
def vector_quantised_autoencoder(p, x):
    """Codes are compared with, and looked up."""
    h = x @ p["in"]
    near = jnp.argmin(jnp.sum(p["codes"] ** 2, axis=1) - 2 * h @ p["codes"].T, axis=1)
    code = p["codes"][near]
    return (h + lax.stop_gradient(code - h)) @ p["out"], jnp.mean((code - h) ** 2)


@program({"splines": low(11, 8, 7), "base": low(11, 7)}, (5, 11))
def functions_on_edges(p, x):
    """A layer of Kolmogorov and Arnold: a curve for each pair of units."""
    basis = jnp.exp(-((x[..., None] - jnp.linspace(-2, 2, 8)) ** 2))
    return jnp.einsum("tig,igo->to", basis, p["splines"]) + jax.nn.silu(x) @ p["base"]


@program(
    {"mean": low(11, 5), "spread": low(11, 5), "out": low(5, 11)},
    (jnp.linspace(-1, 1, 66).reshape(6, 11), jax.random.key(3)),
)
def variational_autoencoder(p, given):
    x, key = given
    mean, spread = x @ p["mean"], x @ p["spread"]
    code = mean + jnp.exp(spread / 2) * jax.random.normal(key, mean.shape)
    divergence = jnp.sum(jnp.exp(spread) + mean**2 - 1 - spread) / 2
    return jnp.sum((code @ p["out"] - x) ** 2) + divergence

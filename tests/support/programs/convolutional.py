"""Networks of images and of sounds."""

import jax
import jax.numpy as jnp
from jax import lax

from programs.registry import full, lost, low, program


def conv(x, kernel, strides=1, padding="SAME", **more):
    dims = ("NHWC", "HWIO", "NHWC") if x.ndim == 4 else ("NWC", "WIO", "NWC")
    strides = (strides,) * (x.ndim - 2)
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=dims, **more
    )


def standardised(x, axes, scale, shift):
    gap = x - jnp.mean(x, axes, keepdims=True)
    return gap * lax.rsqrt(jnp.mean(gap**2, axes, keepdims=True) + 1e-5) * scale + shift


@program(
    {
        "first": low(3, 3, 5, 7),
        "second": low(3, 3, 7, 7),
        "skip": low(1, 1, 5, 7),
        "norm": full(2, 7, mean=1.0),
    },
    (2, 4, 4, 5),
)
def residual_block_with_group_norm(p, x):
    def norm(h):
        grouped = h.reshape(*h.shape[:3], 1, 7)
        return standardised(grouped, (1, 2, 4), *p["norm"]).reshape(h.shape)

    h = jax.nn.relu(norm(conv(x, p["first"], strides=2)))
    return jax.nn.relu(conv(h, p["second"]) + conv(x, p["skip"], strides=2))


@program(
    {
        "depthwise": low(3, 3, 1, 5, is_met=True),
        "pointwise": low(1, 1, 5, 11),
        "squeeze": low(11, 3),
        "excite": low(3, 11),
    },
    (1, 4, 4, 5),
)
def separable_convolution_that_gates_itself(p, x):
    h = conv(x, p["depthwise"], feature_group_count=5)
    h = jax.nn.silu(conv(h, p["pointwise"]))
    gate = jax.nn.relu(h.mean((1, 2)) @ p["squeeze"]) @ p["excite"]
    return h * jax.nn.sigmoid(gate)[:, None, None]


@program({"w": low(3, 3, 2, 6), "head": low(6, 5)}, (2, 4, 4, 4))
def grouped_convolution(p, x):
    h = conv(x, p["w"], feature_group_count=2)
    return jnp.mean(jax.nn.relu(h), (1, 2)) @ p["head"]


@program(
    {
        "filter": [low(2, 5, 7), low(2, 5, 7)],
        "gate": [low(2, 5, 7), low(2, 5, 7)],
        "skip": [low(7, 5), low(7, 5)],
    },
    (1, 8, 5),
)
def dilated_causal_convolutions(p, x):
    out = 0.0
    for i in range(2):
        wide = {"padding": [(2**i, 0)], "rhs_dilation": (2**i,)}
        h = jnp.tanh(conv(x, p["filter"][i], **wide))
        h = h * jax.nn.sigmoid(conv(x, p["gate"][i], **wide)) @ p["skip"][i]
        x, out = x + h, out + h
    return out


@program(
    {"down": low(3, 3, 5, 7), "deep": low(3, 3, 7, 7), "up": low(2, 2, 7, 5)}
    | {"join": low(3, 3, 10, 3)},
    (1, 4, 4, 5),
)
def u_net(p, x):
    h = jax.nn.relu(conv(x, p["down"]))
    h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    h = jax.nn.relu(conv(h, p["deep"]))
    dims = ("NHWC", "HWIO", "NHWC")
    h = lax.conv_transpose(h, p["up"], (2, 2), "SAME", dimension_numbers=dims)
    wide = jax.image.resize(h, (1, 4, 4, 5), "bilinear")
    return conv(jnp.concatenate([x, wide], axis=3), p["join"])


@program({"w": low(45, 7), "local": low(16, 7, 3, stack=(0,))}, (2, 4, 4, 5))
def patches_and_weights_of_each_place(p, x):
    dims = ("NHWC", "HWIO", "NHWC")
    patches = lax.conv_general_dilated_patches(
        x, (3, 3), (1, 1), "SAME", dimension_numbers=dims
    )
    h = jax.nn.relu(patches @ p["w"]).reshape(2, 16, 7)
    return jnp.einsum("nif,ifo->nio", h, p["local"])


@program({"w": lost("reduce_sum", 3, 3, 5, 7)}, (1, 4, 4, 5))
def standardised_kernels(p, x):
    return conv(x, standardised(p["w"], (0, 1, 2), 1.0, 0.0))


@program(
    {"w": low(3, 3, 5, 7), "scale": full(7, mean=1.0), "shift": full(7)},
    (3, 4, 4, 5),
)
def batch_norm_in_training(p, x):
    h = conv(x, p["w"])
    axes = (0, 1, 2)
    statistics = jnp.mean(h, axes), jnp.var(h, axes)
    return jax.nn.relu(standardised(h, axes, p["scale"], p["shift"])), statistics


@program(
    {"time": low(8, 11), "shift": low(11, 14), "first": low(3, 3, 3, 7)}
    | {"last": low(3, 3, 7, 3)},
    (jnp.linspace(-1, 1, 96).reshape(2, 4, 4, 3), jnp.array([0.1, 0.7])),
    tolerance=1e-4,
)
def steps_of_diffusion(p, given):
    """Noise taken away in two steps, by a network that knows the time."""

    def noise(x, time):
        waves = time[:, None] * 2.0 ** jnp.arange(4)
        embedded = jnp.concatenate([jnp.sin(waves), jnp.cos(waves)], axis=1)
        both = jax.nn.silu(embedded @ p["time"]) @ p["shift"]
        scale, shift = jnp.split(both[:, None, None], 2, axis=-1)
        return conv(jax.nn.silu(conv(x, p["first"]) * (1 + scale) + shift), p["last"])

    x, time = given
    step = lambda x, t: (x - 0.1 * noise(x, time * t), None)
    return lax.scan(step, x, jnp.array([1.0, 0.5]))[0]

"""Learning inside: of weights, of policies, of how to learn."""

import jax
import jax.numpy as jnp
from jax import lax

from programs.registry import full, lost, low, program


def network(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]


@program(
    {"w": low(11, 13, at="sub"), "b": full(13), "v": low(13, 7, at="sub")},
    (5, 11),
    tolerance=1e-4,
)
def one_step_of_meta_learning(p, x):
    """MAML: what is evaluated are the weights after a step of their own."""
    loss = lambda p: jnp.mean((network(p, x) - x[:, :7]) ** 2)
    moved = jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss)(p))
    return loss(moved)


@program(
    {"w": low(11, 13), "b": full(13), "v": lost("carry", 13, 7)},
    (5, 11),
    tolerance=1e-4,
)
def learning_of_the_last_layer_in_a_scan(p, x):
    features = jnp.tanh(x @ p["w"] + p["b"])

    def step(v, _):
        return v - 0.1 * features.T @ (features @ v - x[:, :7]), None

    return features @ lax.scan(step, p["v"], length=3)[0]


@program({"in": low(3, 11), "out": low(11, 2)}, (7, 5), tolerance=1e-4)
def optimiser_that_is_learnt(p, data):
    """A network that is given each coordinate's gradient makes its step."""
    loss = lambda w: jnp.mean((data @ w - jnp.sin(data[:, 0])) ** 2)

    def step(state, _):
        w, moment = state
        gradient = jax.grad(loss)(w)
        moment = 0.9 * moment + gradient
        features = jnp.stack([gradient, moment, jnp.sign(moment)], axis=1)
        scale, direction = (jnp.tanh(features @ p["in"]) @ p["out"]).T
        return (w - 0.1 * jnp.exp(0.1 * scale) * direction, moment), loss(w)

    return lax.scan(step, (jnp.zeros(5), jnp.zeros(5)), length=4)[1]


@program(
    {"w": low(11, 13), "v": low(13, 7)},
    (jnp.linspace(-1, 1, 55).reshape(5, 11), jax.random.key(1)),
)
def dropout(p, given):
    x, key = given
    keys = jax.random.split(key)
    kept = lambda key, h: jnp.where(jax.random.bernoulli(key, 0.8, h.shape), h / 0.8, 0)
    return kept(keys[1], jax.nn.relu(kept(keys[0], x) @ p["w"])) @ p["v"]


@program({"w": low(4, 11), "v": low(11, 2)}, (4,), tolerance=1e-3)
def rollout_of_a_policy(p, state):
    """A cart with a pole: actions by argmax, an episode that may end."""

    def step(carry, _):
        (x, dx, angle, turn), alive = carry
        logits = jnp.tanh(jnp.stack([x, dx, angle, turn]) @ p["w"]) @ p["v"]
        force = jnp.where(jnp.argmax(logits) > 0, 10.0, -10.0)
        push = (force + 0.05 * turn**2 * jnp.sin(angle)) / 1.1
        bend = 9.8 * jnp.sin(angle) - jnp.cos(angle) * push
        bend = bend / (0.5 * (4 / 3 - 0.1 * jnp.cos(angle) ** 2 / 1.1))
        moves = jnp.stack([dx, push, turn, bend])
        state = jnp.stack([x, dx, angle, turn]) + 0.02 * moves
        alive = alive & (jnp.abs(state[2]) < 0.2)
        return (tuple(state), alive), alive

    return lax.scan(step, (tuple(state * 0.02), True), length=9)[1].sum()


@program({"model": low(7, 5), "value": low(5, 3)}, (5,), tolerance=1e-4)
def planning_by_the_best_of_many(p, state):
    """Plans are drawn, tried in a learnt model, and drawn nearer the best."""

    def worth(plan):
        move = lambda s, a: (jnp.tanh(jnp.concatenate([s, a]) @ p["model"]), None)
        return jnp.sum(lax.scan(move, state, plan)[0] @ p["value"])

    def turn(mean, key):
        plans = mean + jax.random.normal(key, (8, 3, 2))
        best = jnp.argsort(-jax.vmap(worth)(plans))[:3]
        return plans[best].mean(0), None

    keys = jax.random.split(jax.random.key(0), 2)
    return worth(lax.scan(turn, jnp.zeros((3, 2)), keys)[0])


@program({"left": low(11, 7), "right": low(13, 7), "heat": full()}, (5, 24))
def contrastive_towers(p, pairs):
    norm = lambda h: h / jnp.linalg.norm(h, axis=1, keepdims=True)
    a, b = norm(pairs[:, :11] @ p["left"]), norm(pairs[:, 11:] @ p["right"])
    logits = jnp.exp(p["heat"]) * a @ b.T
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits)))


@program({"w": low(11, 13), "v": low(13, 7)}, (5, 11))
def choices_by_gumbel_noise(p, x):
    logits = jnp.tanh(x @ p["w"]) @ p["v"]
    noise = jax.random.gumbel(jax.random.key(0), logits.shape)
    soft = jax.nn.softmax(logits + noise)
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=1), 7)
    return hard + soft - lax.stop_gradient(soft)


@jax.custom_vjp
def reversible(w, v, a, b):
    a = a + jnp.tanh(b @ w)
    return a, b + jnp.tanh(a @ v)


reversible.defvjp(lambda *given: (reversible(*given), given), lambda given, _: given)


@program({"w": low(2, 7, 5, stack=(0,)), "v": low(2, 5, 7, stack=(0,))}, (4, 12))
def reversible_layers(p, x):
    layer = lambda h, one: (reversible(one["w"], one["v"], *h), None)
    return lax.scan(layer, (x[:, :5], x[:, 5:]), p)[0]


@program({"w": low(11, 13), "actor": low(13, 5), "critic": full(13, 1)}, (6, 11))
def advantages_of_an_actor_and_a_critic(p, x):
    h = jnp.tanh(x @ p["w"])
    values, logits = (h @ p["critic"])[:, 0], jax.nn.log_softmax(h @ p["actor"])
    gaps = x[:-1, 0] + 0.9 * values[1:] - values[:-1]
    back = lambda later, gap: (gap + 0.8 * later,) * 2
    advantages = lax.scan(back, 0.0, gaps, reverse=True)[1]
    chosen = logits[jnp.arange(5), jnp.argmax(x[:-1, :5], axis=1)]
    return jnp.minimum(jnp.exp(chosen) * advantages, advantages)


@program({"w": low(11, 13), "decay": low(13, 7, at="integer_pow")}, (5, 11), quick=True)
def a_penalty_on_what_is_not_multiplied(p, x):
    """Squares of a matrix beside its product: it is written out for them."""
    return jnp.mean((x @ p["w"] @ p["decay"]) ** 2) + jnp.sum(p["decay"] ** 2)


@program({"memory": low(17, 11), "q": low(7, 11), "v": low(11, 5)}, (7,))
def memory_read_by_similarity(p, x):
    state = x @ p["q"]
    for _ in range(2):
        state = jax.nn.softmax(p["memory"] @ state) @ p["memory"]
    return state @ p["v"]

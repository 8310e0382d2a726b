"""DQN: a target network among the arguments, copied now and then."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.03)

IMPROVES = 0.1
optimizer = optax.adam(0.02)
STATES = jnp.linspace(-1, 1, 5)  # a corridor: left or right, its right end pays


def features(state):
    return jnp.exp(-4 * (state[:, None] - STATES) ** 2)


def values(params, state):
    return jnp.tanh(features(state) @ params["w1"]) @ params["w2"] + params["b"]


def loss_fn(params, target, batch):
    state, action, reward, after, done = batch
    future = jnp.where(done, 0.0, values(target, after).max(axis=1))
    aim = jax.lax.stop_gradient(reward + 0.8 * future)
    chosen = jnp.take_along_axis(values(params, state), action[:, None], axis=1)[:, 0]
    return optax.huber_loss(chosen, aim).mean()


def replay(key):
    keys = jax.random.split(key)
    at, action = (
        jax.random.randint(keys[0], (32,), 0, 5),
        jax.random.randint(keys[1], (32,), 0, 2),
    )
    after = jnp.clip(at + 2 * action - 1, 0, 4)
    done = after == 4
    return STATES[at], action, done.astype(jnp.float32), STATES[after], done


@jax.jit
def train_step(params, target, opt_state, key):
    loss, grads = jax.value_and_grad(loss_fn)(params, target, replay(key))
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, target, replay(key))
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def init():
    keys = jax.random.split(jax.random.key(0))
    w = jax.random.normal
    w1, w2 = w(keys[0], (5, 8)) / 2, w(keys[1], (8, 2)) / 3
    return {"w1": w1, "w2": w2, "b": jnp.zeros(2)}


def train():
    params = target = init()
    opt_state, errors = optimizer.init(params), []
    best = jnp.array([0.8**3, 0.8**2, 0.8, 1.0])  # of the states before the end
    for i in range(160):
        if i % 10 == 0:
            target = params
        errors.append(jnp.abs(values(params, STATES[:4]).max(axis=1) - best).mean())
        key = jax.random.fold_in(jax.random.key(1), i)
        params, opt_state, _ = train_step(params, target, opt_state, key)
    return errors


def problem():
    return jax.value_and_grad, loss_fn, (init(), init(), replay(jax.random.key(1)))

"""PPO: epochs over shuffled minibatches of a rollout, in nested scans."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.02))


def init(key):
    keys = jax.random.split(key, 3)
    w = lambda key, i, o: jax.random.normal(key, (i, o)) / i**0.5
    return {
        "body": w(keys[0], 3, 12),
        "actor": w(keys[1], 12, 3),
        "critic": w(keys[2], 12, 1),
    }


def network(params, obs):
    hidden = jnp.tanh(obs @ params["body"])
    return jax.nn.log_softmax(hidden @ params["actor"]), (hidden @ params["critic"])[
        :, 0
    ]


def loss_fn(params, obs, action, old, reward):
    logp, value = network(params, obs)
    chosen = jnp.take_along_axis(logp, action[:, None], axis=1)[:, 0]
    gain = reward - jax.lax.stop_gradient(value)
    gain = (gain - gain.mean()) / (gain.std() + 1e-8)
    ratio = jnp.exp(chosen - old)
    actor = -jnp.minimum(ratio * gain, jnp.clip(ratio, 0.8, 1.2) * gain).mean()
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=1).mean()
    return actor + 0.5 * jnp.mean((value - reward) ** 2) - 0.01 * entropy


def rollout(params, key):
    """One-step episodes: the action to take is the largest observation's."""
    obs_key, act_key = jax.random.split(key)
    obs = jax.random.normal(obs_key, (128, 3))
    logp, _ = network(params, obs)
    action = jax.random.categorical(act_key, logp)
    old = jnp.take_along_axis(logp, action[:, None], axis=1)[:, 0]
    return obs, action, old, (action == obs.argmax(axis=1)).astype(jnp.float32)


def update_minibatch(carry, batch):
    params, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, *batch, step=opt_state[1][0].count)
    updates, opt_state = optimizer.update(grads, opt_state)
    return (optax.apply_updates(params, updates), opt_state), loss


@jax.jit
def iteration(carry, key):
    rollout_key, key = jax.random.split(key)
    data = rollout(carry[0], rollout_key)

    def epoch(carry, key):
        order = jax.random.permutation(key, 128)
        batches = jax.tree.map(lambda x: x[order].reshape(4, 32, *x.shape[1:]), data)
        return jax.lax.scan(update_minibatch, carry, batches)

    carry, _ = jax.lax.scan(epoch, carry, jax.random.split(key, 3))
    return carry, 1 - data[-1].mean()


def train():
    params, regrets = init(jax.random.key(0)), []
    carry = params, optimizer.init(params)
    for i in range(30):
        carry, regret = iteration(carry, jax.random.fold_in(jax.random.key(1), i))
        regrets.append(regret)
    return regrets


def problem():
    params = init(jax.random.key(0))
    return jax.value_and_grad, loss_fn, (params, *rollout(params, jax.random.key(1)))

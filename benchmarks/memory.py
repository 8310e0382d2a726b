"""Peak memory of a step does not grow with the population.

    python -m benchmarks.memory

Trains one step of a 64-wide MLP in a process of its own for each population, with the
same chunk, and prints the peak of resident memory.
"""

import resource
import subprocess
import sys
import time


CHUNK = 2**13
POPULATIONS = (2**14, 2**17, 2**20)


def step(population: int) -> None:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    import eggroll
    from models.mlp import MLP

    model = MLP(8, 1, hidden=(64, 64, 64), activation="relu", rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    optimizer = optax.sgd(0.01)
    es = eggroll.EvolutionStrategy(population, sigma=0.02, chunk_size=CHUNK)
    x = jax.random.normal(jax.random.key(0), (16, 8))

    def loss(params, x):
        return jnp.mean((nnx.merge(graph, params)(x)[:, 0] - jnp.sin(x[:, 0])) ** 2)

    @jax.jit
    def train(params, state, key):
        value, grads = es.value_and_grad(loss=loss)(params, key, x)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    start = time.perf_counter()
    out = train(params, optimizer.init(params), jax.random.key(1))
    jax.block_until_ready(out)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{population:9d} {peak:9.1f} {seconds:9.1f}")


def main() -> None:
    if len(sys.argv) > 1:
        step(int(sys.argv[1]))
        return
    print(f"{'members':>9} {'peak MiB':>9} {'seconds':>9}   (chunks of {CHUNK})")
    for population in POPULATIONS:
        command = [sys.executable, "-m", "benchmarks.memory", str(population)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

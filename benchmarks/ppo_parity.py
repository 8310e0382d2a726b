"""Our PPO beside that of rejax (0.1.3), on three environments of gymnax.

    python -m benchmarks.ppo_parity rejax    # needs rejax: see below
    python -m benchmarks.ppo_parity ours
    python -m benchmarks.ppo_parity ending   # ours, with time limits as ends
    python -m benchmarks.ppo_parity table    # from what is saved

Both have the same network, settings and frames, and are judged alike: by 128 episodes
of the policy that draws its actions. What differs is rejax's own: a time limit counts
as an end, gradients are clipped number by number (at a bound that neither meets), and
rewards are divided by the standard deviation of their discounted sums, not by their
root mean square. Figures are saved in `benchmarks/results/ppo-parity.json`.

rejax asks for an older gymnax, and for distrax with an older JAX. It runs with ours in
an environment of its own, all installed without what they require: rejax, distrax,
chex, toolz, tensorflow_probability, dm-tree, wrapt, attrs, decorator, cloudpickle,
gast. What JAX and gymnax have changed meanwhile is made up for here.
"""

import argparse
import functools
import json
import statistics
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from eggroll import runs, training
from eggroll.config import resolve
from tasks.control import Box, Control, Environment
from tasks.control.adapters import make
from tasks.control.ppo import PPOSettings


RESULTS = Path(__file__).parent / "results" / "ppo-parity.json"
FRAMES = {"CartPole-v1": 2**17, "Acrobot-v1": 2**18, "Pendulum-v1": 2**19}
SEEDS, VALIDATIONS = 5, 8
HIDDEN, RATE = (64, 64), 1e-3
SETTINGS: dict[str, tuple[str, Any]] = {  # as ours are called, and as rejax's are
    "workers": ("num_envs", 16),
    "steps": ("num_steps", 128),
    "epochs": ("num_epochs", 4),
    "minibatches": ("num_minibatches", 8),
    "discount": ("gamma", 0.99),
    "trace": ("gae_lambda", 0.95),
    "clip": ("clip_eps", 0.2),  # in rejax, of values too
    "entropy": ("ent_coef", 0.0),
    "value": ("vf_coef", 0.5),
    "gradient_norm": ("max_grad_norm", 10.0),
    "normalise_rewards": ("normalize_rewards", True),
}


class Plain(Environment):
    """A gymnax environment whose actions are taken as they are drawn, as by rejax.

    Args:
        name: of the environment.
        is_final: whether its time limit counts as an end.
    """

    def __init__(self, name: str, *, is_final: bool):
        self._inner, self._is_final = (inner := make(f"gymnax/{name}")), is_final
        space = inner.action_space
        if isinstance(space, Box):  # which the environment clips by itself
            space = Box.of(-np.inf, np.inf, space.size)
        self.name, self.action_space = name, space
        self.observation_shape = inner.observation_shape
        self.step_limit = inner.step_limit

    def reset(self, key):
        state, observation = self._inner.reset(key)
        return (state, 0), observation

    def step(self, state, action, key):
        inner, time = state
        inner, *rest, ended = self._inner.step(inner, action, key)
        ended |= self._is_final & (time + 1 >= self.step_limit)
        return (inner, time + 1), *rest, ended


class FiveValues:
    """An environment of gymnax whose `step` returns as many values as before 1.0."""

    def __init__(self, environment: Any):
        self._environment = environment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def __deepcopy__(self, memo: Any) -> "FiveValues":
        return self

    def step(self, *arguments: Any) -> tuple:
        seen, state, reward, ended, cut, info = self._environment.step(*arguments)
        return seen, state, reward, ended | cut, info


def rejax(name: str) -> list[list[float]]:
    """Returns of each seed, at the start and after each part of the frames."""
    import gymnax
    from jax._src import core
    from jax.interpreters import xla

    # tensorflow_probability, of distrax, looks for it there.
    cast(Any, xla).pytype_aval_mappings = core.pytype_aval_mappings
    from rejax import PPO

    environment, options = gymnax.make(name)
    algorithm = PPO.create(
        env=FiveValues(environment),
        env_params=options,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": HIDDEN},
        learning_rate=RATE,
        total_timesteps=FRAMES[name],
        eval_freq=FRAMES[name] // VALIDATIONS,
        **dict(SETTINGS.values()),
    )
    train = jax.jit(jax.vmap(algorithm.train))
    _, (_, returns) = train(jax.random.split(jax.random.key(0), SEEDS))
    return np.asarray(returns).mean(axis=-1).tolist()


def ours(name: str, *, is_final: bool = False) -> list[list[float]]:
    """The same of our PPO."""
    task = Control(
        environment=Plain(name, is_final=is_final),
        hidden=HIDDEN,
        activation="tanh",
        deterministic=False,
        log_std="free",
        ppo=PPOSettings(**{one: value for one, (_, value) in SETTINGS.items()}),
    )
    config = {
        "task": {"class": "tasks.control:Control"},
        "algorithm": "ppo",
        "optimizer": {"name": "adam", "learning_rate": RATE},
        "budget": {"generations": 1},
    }
    found = []
    for seed in range(SEEDS):
        algorithm = training.find(task, resolve({**config, "seed": seed}))
        key = jax.random.key(seed)
        params, seen = task.init(key), task.initial_state()
        kept = algorithm.init(params)
        state = training.State(params, kept, jnp.int32(0), key, seen, ())
        updates = FRAMES[name] // (task.ppo.workers * task.ppo.steps)
        returns = []
        for update in range(updates + 1):
            if update % (updates // VALIDATIONS) == 0:
                told = task.validate(state.params, state.task, jax.random.key(seed))
                returns.append(told["return"])
            if update < updates:
                state, _ = algorithm.step(state, ())
        found.append(returns)
    return found


PLAYERS = {
    "rejax": rejax,
    "ours": ours,
    "ending": functools.partial(ours, is_final=True),
}


def measure(who: str) -> None:
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in FRAMES:
        returns = PLAYERS[who](name)
        found.setdefault(name, {"frames": FRAMES[name]})[who] = returns
        found["versions"] = runs.versions()
        RESULTS.write_text(written(found))


def written(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1) + "\n"


def table() -> str:
    """Means over seeds and their standard errors: over the curve, and at its end."""
    found = json.loads(RESULTS.read_text())
    lines = ["| environment | frames | who | mean of the curve | at the end |"]
    lines.append("|---|---|---|---|---|")
    for name in FRAMES:
        for who in PLAYERS:
            curves = np.array(found[name][who])
            told = " | ".join(map(_told, (curves[:, 1:].mean(axis=1), curves[:, -1])))
            label = "ours, limits as ends" if who == "ending" else who
            lines.append(f"| {name} | {FRAMES[name]:,} | {label} | {told} |")
    return "\n".join(lines)


def _told(values: np.ndarray) -> str:
    error = statistics.stdev(values.tolist()) / len(values) ** 0.5
    return f"{values.mean():.1f} ± {error:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=(*PLAYERS, "table"))
    what = parser.parse_args().what
    print(table()) if what == "table" else measure(what)

"""From settings to the objects they describe."""

import contextlib
import functools
import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from eggroll.config import lookup
from eggroll.config.coercion import unknown
from eggroll.config.pieces import Choice, Schedule
from eggroll.config.schema import Config, StrategyConfig
from eggroll.errors import UserError
from eggroll.evolution import adaptation as adaptations, shaping as shapings
from eggroll.evolution.anchored import anchored
from eggroll.evolution.leaves import trainable
from eggroll.evolution.master_weights import with_master_weights
from eggroll.evolution.strategy import EvolutionStrategy
from eggroll.evolution.topology import population_mesh
from eggroll.perturbation.rules import Frozen, Rule, frozen, full_rank, low_rank
from eggroll.task.protocol import Task


@contextlib.contextmanager
def blaming(
    setting: str, kinds: tuple[type[Exception], ...] = (ValueError, TypeError)
) -> Iterator[None]:
    """Turns errors of some kinds into one about the setting that they came from."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{setting}: {str(error)[:400]}") from error


def schedule(setting: Schedule) -> float | optax.Schedule:
    """The number, or the function from step to number."""
    start, end, steps = setting.start, setting.end, setting.steps
    if end is None or steps is None:
        return start
    if setting.kind == "linear":
        return optax.linear_schedule(start, end, steps)
    if setting.kind == "exponential":
        return optax.exponential_decay(start, steps, end / start, end_value=end)
    return optax.schedules.cosine_decay_schedule(start, steps, alpha=end / start)


def task(config: Config) -> Task:
    """The task, made from its class and its fields."""
    cls = lookup.locate_dataclass(config.task.path)
    if Task not in cls.__mro__:  # before anything of it is called
        raise UserError(
            f"task.class: expected a class that inherits from eggroll.Task, got "
            f"{config.task.path!r}"
        )
    with blaming("task"):
        return cls(**config.task.options)


def optimizer(
    config: Config, rules: Mapping[str, Rule] | None = None
) -> optax.GradientTransformation:
    """Optax's optimiser, with what the settings put around it.

    That is an anchor, and a float32 master copy where parameters are shorter. Leaves
    that the rules freeze stay what they are, whatever their gradients are and without
    any decay, and nothing is kept for them.
    """
    setting = config.optimizer
    with blaming("optimizer", (Exception,)):  # optax has many functions, and options
        made = setting.function()(schedule(setting.learning_rate), **setting.options)
    if not isinstance(made, optax.GradientTransformation):
        raise UserError(
            f"optimizer.name: expected an optimiser of optax, got {setting.name!r}"
        )
    if setting.anchor is not None:
        with blaming("optimizer.anchor"):
            made = anchored(made, schedule(setting.anchor))
    if config.precision == "bfloat16":
        made = with_master_weights(made)
    if not any(isinstance(rule, Frozen) for rule in (rules or {}).values()):
        return made
    learnt = functools.partial(trainable, rules=rules)
    kept = lambda params: jax.tree.map(operator.not_, learnt(params))
    still = optax.masked(optax.set_to_zero(), kept)  # whose gradients are none of ours
    return optax.chain(optax.masked(made, learnt), still)


def precise(config: Config, params: PyTree) -> PyTree:
    """The parameters in the precision that the settings ask for."""
    dtype = jnp.dtype(config.precision)

    def cast(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, params)


def mesh(config: Config) -> Mesh:
    """The devices over which the population is spread, and its models."""
    devices, wanted = jax.devices(), config.mesh.devices
    if wanted is not None and not 1 <= wanted <= len(devices):
        raise UserError(
            f"mesh.devices: expected 1 to {len(devices)}, as there are, got {wanted}"
        )
    with blaming("mesh"):
        return population_mesh(devices[:wanted], model=config.mesh.model_devices)


def partition(config: Config) -> dict[str, PartitionSpec]:
    """How parameters lie over the devices that share a model."""
    rules = config.mesh.partition
    return {pattern: PartitionSpec(*axes) for pattern, axes in rules.items()}


def strategy(config: Config, *, rank: int | None) -> EvolutionStrategy:
    """The evolution strategy, of a rank or (None) with full-rank perturbations."""
    setting = config.strategy
    with blaming("strategy"):
        return EvolutionStrategy(
            population=setting.population,
            sigma=schedule(setting.sigma),
            rank=rank,
            noise=setting.noise,
            antithetic=setting.antithetic,
            noise_reuse=setting.noise_reuse,
            shaping=shaping(setting.shaping),
            gradient_dtype="float32",  # for the master copy of shorter parameters
            rules=rules(setting.rules),
            chunk_size=setting.chunk_size,
            mesh=mesh(config),
            partition=partition(config),
            fixed_order=config.mesh.fixed_order,
            # Until a run has chosen one, any will do: results are the same.
            update="reduce" if config.mesh.update == "auto" else config.mesh.update,
        )


def shaping(choice: Choice) -> shapings.Shaping:
    """A function of `eggroll.shaping`, or what one of them makes of the options."""
    function = lookup.locate_function(shapings, "shaping", choice.name)
    lookup.check_options("strategy.shaping", function, choice.options)
    if next(iter(inspect.signature(function).parameters)) == "fitness":
        return functools.partial(function, **choice.options)
    with blaming("strategy.shaping"):
        return function(**choice.options)


def adaptation(setting: StrategyConfig) -> adaptations.Adaptation | None:
    """The rule by which sigma adapts, made by a function of `eggroll.adaptation`.

    Raises:
        UserError: there is no such rule, or not for this strategy.
    """
    choice, where = setting.sigma_adaptation, "strategy.sigma_adaptation"
    if choice is None:
        return None
    function = lookup.locate_function(adaptations, "rule for sigma", choice.name)
    if "sigma" in choice.options:
        raise UserError(f"{where}.sigma: it starts from strategy.sigma, set that")
    lookup.check_options(where, function, choice.options)
    with blaming(where):
        rule = function(setting.sigma.start, **choice.options)
    if rule.needs_pairs and not setting.antithetic:
        raise UserError(
            f"{where}: {choice.name!r} compares antithetic pairs: set "
            "strategy.antithetic to true, or choose another rule"
        )
    return rule


def rules(choices: Mapping[str, Choice]) -> dict[str, Rule]:
    """How the leaves are perturbed, by patterns of their paths."""
    return {pattern: _rule(choice) for pattern, choice in choices.items()}


def _rule(choice: Choice) -> Rule:
    known = {"frozen": lambda: frozen, "full_rank": full_rank, "low_rank": low_rank}
    if choice.name not in known:
        raise unknown("rule", choice.name, known)
    make = known[choice.name]
    lookup.check_options("strategy.rules", make, choice.options)
    with blaming("strategy.rules"):
        return make(**choice.options)

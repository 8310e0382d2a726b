"""What a run is: frozen dataclasses, read from YAML and written back.

The settings of the task, the optimiser and the shaping stand beside their names:

    task: {class: tasks.control:Control, environment: CartPole-v1}
    optimizer: {name: adam, learning_rate: 0.02, b1: 0.9}

and are checked against the dataclass or function that is named.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import optax

from eggroll.config import coercion, lookup
from eggroll.config.bounds import Bounds, Count, Natural, Positive, check_bounds
from eggroll.config.pieces import Choice, Schedule
from eggroll.errors import UserError


# Optimisers that optax lacks, by path: the rooms that hold them are not beneath.
OWN_OPTIMIZERS = {"clipup": "eggroll:clipup"}
# What serves every task; a task may offer others.
ALGORITHMS = ("eggroll", "openes", "backprop")
PLAIN = (bool, int, float, str, tuple, type(None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Which task, by dotted path as in `tasks.control:Control`, and its fields."""

    path: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Reads a path alone, or a mapping of `class` and the task's fields."""
        options = {"class": value} if isinstance(value, str) else value
        if not isinstance(options, Mapping) or "class" not in options:
            raise UserError(
                f"the setting {where + '.class'!r} is missing: name the task by "
                "module and class, as in 'tasks.control:Control'"
            )
        options = dict(options)
        path = coercion.coerce(options.pop("class"), str, f"{where}.class")
        task = lookup.locate_dataclass(path)
        given = coercion.fields_of(task, options, where)
        return cls(path=path, options={**_defaults(task), **given})

    def plain(self) -> Any:
        return {"class": self.path, **plain(self.options)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """A running baseline, which fitness is judged against; see `eggroll.evolution`.

    Attributes:
        half_life: Generations after which one counts half as much.
    """

    half_life: Positive

    def __post_init__(self):
        check_bounds(self, "strategy.baseline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """The arguments of `eggroll.EvolutionStrategy`, as words and numbers.

    Attributes:
        sigma_adaptation: A rule of `eggroll.adaptation` that starts from `sigma`, with
            its options; None: sigma is what its schedule says.
        baseline: Shape fitness as its deviation from a running mean, in running
            standard deviations, instead of as it is.
    """

    population: Count = 256
    sigma: Annotated[Schedule, Bounds(above=0, most=1e6)] = Schedule(start=0.05)  # noqa: RUF009
    sigma_adaptation: Choice | None = None
    rank: Annotated[int, Bounds(least=1, most=2**16)] = 1
    noise: Literal["rademacher", "gaussian"] = "rademacher"
    antithetic: bool = True
    noise_reuse: Count = 1
    shaping: Choice = Choice(name="zscore")  # noqa: RUF009
    baseline: BaselineConfig | None = None
    rules: Mapping[str, Choice] = dataclasses.field(default_factory=dict)
    chunk_size: Count | None = None

    def __post_init__(self):
        check_bounds(self, "strategy")
        if self.sigma_adaptation is not None and self.sigma.kind != "constant":
            raise UserError(
                f"strategy.sigma: {self.sigma_adaptation.name!r} adapts it, so that it "
                f"must be one number to start from, got a schedule of kind "
                f"{self.sigma.kind!r}: leave out one of the two"
            )
        keeps_size = self.shaping.name in ("centre", "none") or (
            self.shaping.name == "groups"
            and self.shaping.options.get("spread") == "none"
        )
        if self.baseline is not None and not keeps_size:
            raise UserError(
                f"strategy.shaping: {self.shaping.name!r} forgets by how much members "
                "differ, which strategy.baseline measures: choose centre or none"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The devices, of all processes, and what lies on which.

    Attributes:
        devices: How many; all by default.
        model_devices: How many neighbours share a model; the population is spread over
            the rest.
        partition: By path pattern, how a parameter lies over them: for each dimension
            the axis that divides it (`model`), or null.
        update: How the sum over all members gets to all devices: see
            `eggroll.EvolutionStrategy`; `auto` has `eggroll train` measure this
            machine's rates and choose.
        fixed_order: In how many units floats are added up, so that they are equal to
            the bit on as many devices or fewer.
    """

    devices: Count | None = None
    model_devices: Count = 1
    partition: Mapping[str, tuple[str | None, ...]] = dataclasses.field(
        default_factory=dict
    )
    update: Literal["reduce", "scatter", "replay", "mixed", "auto"] = "reduce"
    fixed_order: Count | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """A function of `optax` that takes `learning_rate`, and its other arguments.

    `clipup` names `eggroll.clipup`.

    Attributes:
        anchor: The share of the way from the start that each step takes back, as
            `eggroll.anchored` has it.
    """

    name: str = "adam"
    learning_rate: Annotated[Schedule, Bounds(least=0)] = Schedule(start=0.01)  # noqa: RUF009
    anchor: Annotated[Schedule | None, Bounds(least=0, most=1)] = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_bounds(self, "optimizer")

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Reads a name alone, or a mapping of the fields and the options."""
        value = value if isinstance(value, Mapping) else {"name": value}
        fields = ("name", "learning_rate", "anchor")
        own = {key: value[key] for key in fields if key in value}
        options = {
            key: coercion.coerce(one, Any, f"{where}.{key}")
            for key, one in value.items()
            if key not in own
        }
        made = coercion.from_mapping(cls, own, where, options=options)
        lookup.check_options(where, made.function(), options)
        return made

    def function(self) -> Callable:
        """The function of `optax`, or ours."""
        if self.name in OWN_OPTIMIZERS:
            return lookup.locate(OWN_OPTIMIZERS[self.name])
        return lookup.locate_function(optax, "optimiser in optax", self.name)

    def plain(self) -> Any:
        rate = self.learning_rate.plain()
        anchor = {} if self.anchor is None else {"anchor": self.anchor.plain()}
        return {"name": self.name, "learning_rate": rate, **anchor, **self.options}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """When a run ends: at whichever of these comes first.

    Attributes:
        generations: Updates of the parameters.
        seconds: Of wall-clock time in all sittings, compilation included.
        samples: As the task counts them, such as frames of all episodes.
        target: Value of the headline metric, confirmed by a second validation.
    """

    generations: Count | None = None
    seconds: Positive | None = None
    samples: Positive | None = None
    target: float | None = None

    def __post_init__(self):
        check_bounds(self, "budget")
        if (self.generations, self.seconds, self.samples) == (None, None, None):
            raise UserError(
                "the budget needs `generations` or `seconds` or `samples`: set one"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run.

    Attributes:
        task: What is learnt.
        algorithm: `eggroll`, `openes`, `backprop`, or one that the task offers.
        strategy: How the population is drawn and weighed.
        optimizer: What turns gradients into updates.
        budget: When the run ends.
        evaluate_every: Steps between validations.
        checkpoint_every: Steps between checkpoints; None: a hundred, or as many
            hundreds as it takes for their writing to be a fiftieth of the time. The
            last step always has one.
        checkpoint_seconds: Seconds after which there is another in any case; None: by
            steps alone.
        keep_checkpoints: How many of them stay, the newest.
        keep_best: Whether the one with the best validation stays beside these.
        replay_log: Keep the fitness of each step, from which states between checkpoints
            are made again: `whole`, from the first step on; `recent`, from the oldest
            checkpoint that stays; `none`. (Algorithms that do not learn from fitness
            alone have none.)
        diagnose_every: Steps between measurements of the gradient's signal-to-noise
            ratio, each at the price of one update; 0 for never.
        unusable_steps: What becomes of a step in which one member of every pair has
            failed, so that nothing is learnt: `count` it, or `stop` the run.
        step_deadline: Seconds that a step may take, but for a sitting's first one; what
            hangs in Python longer (a `score`, a `batch`) is ended, and the steps before
            it are saved; None: any.
        seed: The base key of everything random.
        precision: Of the parameters; `bfloat16` keeps a float32 master copy.
        mesh: Of which devices, and what lies on which.
        output: The directory in which the run gets its own.
        name: Of the run's directory; by default that of the YAML file.
        sinks: Where metrics go besides `metrics.jsonl`.
    """

    task: TaskConfig
    algorithm: str = "eggroll"
    strategy: StrategyConfig = StrategyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    budget: BudgetConfig
    evaluate_every: Count = 10
    checkpoint_every: Count | None = None
    checkpoint_seconds: Positive | None = None
    keep_checkpoints: Count = 3
    keep_best: bool = True
    replay_log: Literal["whole", "recent", "none"] = "whole"
    diagnose_every: Natural = 10
    unusable_steps: Literal["count", "stop"] = "count"
    step_deadline: Positive | None = None
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    mesh: MeshConfig = MeshConfig()
    output: str = "runs"
    name: str | None = None
    sinks: tuple[Literal["tensorboard", "wandb"], ...] = ()

    def __post_init__(self):
        check_bounds(self)
        name, output = self.name or "run", self.output
        if Path(name).name != name or name == ".." or not name.isprintable():
            raise UserError(
                f"name: expected a plain directory name, got {name!r:.60}: set "
                "`output` to choose where it is made"
            )
        if not output.isprintable():
            raise UserError(f"output: expected a plain path, got {output!r:.60}")


def plain(config: Any) -> Any:
    """The plain data that reads back as `config`."""
    if hasattr(config, "plain"):
        return config.plain()
    if dataclasses.is_dataclass(config):
        fields = dataclasses.fields(config)
        return {field.name: plain(getattr(config, field.name)) for field in fields}
    if isinstance(config, Mapping):
        return {name: plain(value) for name, value in config.items()}
    if isinstance(config, tuple | list):
        return [plain(value) for value in config]
    return config


def _defaults(cls: type) -> dict[str, Any]:
    """The defaults that can be written out."""
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.init and isinstance(field.default, PLAIN)
    }

"""Evolution strategies at nearly the price of inference, for any JAX model.

`EvolutionStrategy` estimates gradients from a population of perturbed models, for any
optimiser of optax; `IntegerStrategy` evolves integers. `perturbed` is beneath both, and
`coverage` tells what it does to a model. What the command line learns is a `Task`.
"""

from eggroll.errors import UserError
from eggroll.evolution import adaptation, packing, shaping
from eggroll.evolution.anchored import anchored
from eggroll.evolution.clipup import clipup
from eggroll.evolution.factors import Factors
from eggroll.evolution.generation import Generation
from eggroll.evolution.learning_rates import sgd_learning_rate
from eggroll.evolution.leaves import filled, trainable
from eggroll.evolution.master_weights import with_master_weights
from eggroll.evolution.minimise import minimise
from eggroll.evolution.partition import partition_of, shardings
from eggroll.evolution.report import Coverage, coverage
from eggroll.evolution.residual import with_residual
from eggroll.evolution.strategy import EvolutionStrategy
from eggroll.evolution.topology import population_mesh
from eggroll.integer.strategy import IntegerStrategy
from eggroll.integer.updates import accumulating, inverse_time, memoryless
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.rules import Rule, frozen, full_rank, low_rank
from eggroll.perturbation.scale import Shift
from eggroll.perturbation.transform import perturbed
from eggroll.task import Task, check_task


__version__ = "0.1.0"

__all__ = [
    "Coverage",
    "EvolutionStrategy",
    "Factors",
    "Generation",
    "IntegerStrategy",
    "Perturbed",
    "Rule",
    "Shift",
    "Task",
    "UserError",
    "__version__",
    "accumulating",
    "adaptation",
    "anchored",
    "check_task",
    "clipup",
    "coverage",
    "filled",
    "frozen",
    "full_rank",
    "inverse_time",
    "low_rank",
    "memoryless",
    "minimise",
    "packing",
    "partition_of",
    "perturbed",
    "population_mesh",
    "sgd_learning_rate",
    "shaping",
    "shardings",
    "trainable",
    "with_master_weights",
    "with_residual",
]


def __dir__() -> list[str]:
    return __all__

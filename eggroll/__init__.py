"""Evolution strategies at nearly the price of inference, for any JAX model.

The engine: `EvolutionStrategy` estimates gradients from the fitness of a population of
perturbed models, and any optimiser of optax follows them. `perturbed` is the
transformation beneath it, and `coverage` tells what it does to a model. Whole runs from
the command line are made of a `Task`.
"""

from eggroll import shaping as shaping
from eggroll.check import check_task as check_task
from eggroll.coverage import Coverage as Coverage, coverage as coverage
from eggroll.errors import UserError as UserError
from eggroll.generation import Generation as Generation
from eggroll.integer import IntegerStrategy as IntegerStrategy
from eggroll.lowrank import Perturbed as Perturbed, Shift as Shift
from eggroll.plan import (
    Rule as Rule,
    frozen as frozen,
    full_rank as full_rank,
    low_rank as low_rank,
)
from eggroll.precision import with_master_weights as with_master_weights
from eggroll.sharding import population_mesh as population_mesh
from eggroll.strategy import EvolutionStrategy as EvolutionStrategy
from eggroll.task import Task as Task
from eggroll.transform import perturbed as perturbed

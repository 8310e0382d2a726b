"""Which primitives the installed JAX has, and which of them the rules know.

    python tests/support/primitives.py

lists those that take arrays and have no rule: a matrix that meets one loses its low
rank. Most are no linear maps, and that is right. After an update of JAX, a name that is
new here may be an old one renamed, which had a rule.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import jax
from jax.extend.core import Primitive

from eggroll.evolution import buffers, footprint
from eggroll.perturbation import dependence, flow, jaxprs, transform


# Need other machines or packages, or run something when they are imported.
_APART = (
    "jax.tools",
    "jax._src.pallas",
    "jax.experimental",
    "jax._src.test",
    "jax.collect_profile",
    "jax._src.cloud_tpu",
    "jax._src.clusters",
    "jax._src.internal_test",
)
RULES = frozenset({*transform.RULES, *jaxprs.INLINED})
# What else is known by name: how data flow, and what memory is planned for.
OTHERS = frozenset(
    {*flow.ELEMENTWISE, *flow._PRODUCTS, *flow._SOLVERS, *flow._SUMS}
    | {*dependence._ALIKE, *buffers.SHARED, *buffers.VIEWS, *buffers.SUMS}
    | footprint.IN_PLACE
)


def installed() -> set[str]:
    """The names of the primitives that modules of JAX define."""
    return {one.name for module in _modules() for one in _primitives(module)}


def without_rule() -> list[str]:
    """The names of the installed primitives that no rule knows."""
    return sorted(installed() - RULES)


def _primitives(module: ModuleType) -> Iterator[Primitive]:
    yield from (x for x in vars(module).values() if isinstance(x, Primitive))


def _modules() -> Iterator[ModuleType]:
    """All modules of JAX that can be imported here."""
    for found in pkgutil.walk_packages(jax.__path__, "jax.", onerror=lambda _: None):
        if found.name.startswith(_APART):
            continue
        try:
            yield importlib.import_module(found.name)
        except Exception:
            continue  # made for other machines, or for what is not installed


if __name__ == "__main__":
    print(*without_rule(), sep="\n")

"""What ails a run: its figures and settings read by one small function a sickness.

Each of them says what is wrong and what to try, or None. They know nothing of a run but
its rows and its settings as plain data, so that a stranger's run is read safely, too.
"""

from collections.abc import Callable

from eggroll.training import ailing_fitness as fitness, ailing_steps as steps
from eggroll.training.case import Case, Finding, improves, is_noise


__all__ = [
    "CAUSES",
    "FEWEST",
    "SYMPTOMS",
    "Case",
    "Finding",
    "findings",
    "improves",
    "is_noise",
]
FEWEST = 5  # steps from which anything can be told
Look = Callable[[Case], Finding | None]
CAUSES: tuple[Look, ...] = (
    fitness.failing,
    steps.nothing_moves,
    fitness.constant_fitness,
    fitness.nearly_equal,
    fitness.weightless,
    steps.sigma_too_small,
    steps.sigma_too_large,
    steps.learning_rate_too_high,
    steps.one_leaf,
    steps.noise_reused,
    fitness.sign_flipped,
    steps.sigma_ran_away,
    steps.updates_lost,
    steps.saturated,
    steps.never_moves,
)
# What is told where no cause that is known explains it.
SYMPTOMS: tuple[Look, ...] = (fitness.few_decide, fitness.no_signal, steps.too_slow)


def findings(case: Case) -> list[Finding]:
    """What is wrong with a run; empty if nothing is known to be.

    Of a run of less than `FEWEST` steps nothing is.
    """
    if case.steps < FEWEST:
        return []
    for table in (CAUSES, SYMPTOMS):
        found = [one for one in (look(case) for look in table) if one is not None]
        if found:
            return found
    return []

"""Scoring on machines that come and go: guards on the actors of a ray cluster.

Each generation is handed out in parts to the actors that are there. One that dies is
started again, on another machine if need be, and what it had before it is scored again:
a lost machine costs a retry of its part, not the generation.

References:
    Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications" (2018),
    https://arxiv.org/abs/1712.05889; https://docs.ray.io.
"""

import importlib
import os
import pickle
import signal
import sys
import threading
from typing import Any

from eggroll import UserError
from tasks.reasoning.guard import Guard
from tasks.reasoning.processes import pickled
from tasks.reasoning.worker import Answer, Job


PARTS = 4  # that an actor gets of a generation: the fast ones get more
RETRIES = 3  # of a part whose actor died


class Scorer:
    """What an actor is: a guard, and nothing else."""

    def __init__(self, paths: list[str], content: bytes, settings: dict[str, Any]):
        sys.path[:] = dict.fromkeys([*sys.path, *paths])
        self._guard = Guard(pickle.loads(content), **settings)

    def answered(
        self, at: int, jobs: list[Job]
    ) -> tuple[int, list[tuple[Answer, float]]]:
        """Scores a part of a generation; returns its number, too."""
        return at, self._guard.answered(jobs)

    def process(self) -> int:
        """The number of the process."""
        return os.getpid()


class Cluster(Guard):
    """A reward, behind guards on a cluster of ray.

    Its address is RAY_ADDRESS, or that of `ray.init`; without one, ray is started on
    this machine. All machines need this package, and what the reward imports.

    Args:
        reward: as of `Guard`.
        actors: how many guards there are on the cluster, each with `processes`. Those
            that find no machine wait for one, and the others do their work.
        processes: of each; and so on, as of `Guard`.

    Raises:
        UserError: ray is not installed, or a setting is impossible.
    """

    def __init__(
        self, reward: Any, *, actors: int, processes: int = 2, **settings: Any
    ):
        if actors < 1:
            raise UserError(f"actors must be at least 1, got {actors}")
        super().__init__(reward, processes=0, **settings)
        self._ray = _started()
        content = pickled(reward)
        options = {"max_restarts": -1, "max_task_retries": RETRIES}
        kind = self._ray.remote(**options, num_cpus=max(1, processes))(Scorer)
        settings["processes"] = processes
        self.actors = [kind.remote(sys.path, content, settings) for _ in range(actors)]

    def answered(self, jobs: list[Job]) -> list[tuple[Answer, float]]:
        """What the reward says to jobs, and the seconds of each.

        Raises:
            UserError: no actor is there, or the reward does not load on it.
        """
        there = self._there()
        size = max(1, -(-len(jobs) // (PARTS * len(there))))
        parts = [jobs[i : i + size] for i in range(0, len(jobs), size)]
        pool = importlib.import_module("ray.util").ActorPool(there)
        ask = lambda actor, numbered: actor.answered.remote(*numbered)
        try:
            found = dict(pool.map_unordered(ask, [*enumerate(parts)]))
        except self._ray.exceptions.RayError as error:
            raise UserError(f"scorers: ray lost a part for good: {error}") from error
        return [one for at in range(len(parts)) for one in found[at]]

    def close(self) -> None:
        """Ends the actors."""
        for actor in self.actors:
            self._ray.kill(actor)

    def _there(self) -> list[Any]:
        """The actors that have started."""
        asked = {actor.process.remote(): actor for actor in self.actors}
        ready, _ = self._ray.wait([*asked], num_returns=1, timeout=self.start)
        if not ready:
            raise UserError(
                f"scorers: none of {len(self.actors)} actors has started within "
                f"{self.start:g} s: does the cluster have the processors they ask for "
                "(`ray status` tells)?"
            )
        ready, _ = self._ray.wait([*asked], num_returns=len(asked), timeout=0)
        try:
            self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"scorers: an actor does not start: {reason}") from error
        return [asked[one] for one in ready]


def _started() -> Any:
    """The module, with a cluster.

    Raises:
        UserError: it is not installed.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError(
            "scorers: ray is not installed: pip install 'eggroll-jax[ray]', or leave "
            "scorers at 0, which scores in processes of this machine"
        ) from None
    if not ray.is_initialized():
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # a run saves; ray would just end
    return ray

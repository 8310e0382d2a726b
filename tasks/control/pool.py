"""Gymnasium environments side by side on the host, in worker processes if wanted."""

import functools
import math
import multiprocessing
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt32

from eggroll import UserError
from tasks.control.environment import library


class Seen(NamedTuple):
    """What a step has led to. Where none was made, values mean nothing.

    `legal` says what may be done next; None: all, always. Where nothing is left of one
    of several choices, nothing is legal.
    """

    observation: Shaped[np.ndarray, "environments ..."]
    reward: Float[np.ndarray, " environments"]
    terminated: Bool[np.ndarray, " environments"]
    truncated: Bool[np.ndarray, " environments"]
    legal: Bool[np.ndarray, "environments actions"] | None = None

    def each(self, function: Callable[[np.ndarray], Any]) -> "Seen":
        """What a function makes of every array."""
        made: list[Any] = [None if x is None else function(x) for x in self]
        return Seen(*made)

    @property
    def can_act(self) -> Bool[np.ndarray, "..."]:
        """Where all that is observed is finite, and something may be done."""
        numbers = self.observation.reshape(*self.reward.shape, -1)
        finite = np.asarray(np.isfinite(numbers).all(axis=-1))
        return finite if self.legal is None else finite & self.legal.any(axis=-1)


class Pool:
    """As many environments of one kind as are asked for, each with a seed of its own.

    Args:
        name: of the environment, as Gymnasium knows it.
        options: passed on to it.
        size: how many environments there may be at once.
        workers: processes that step them; 0 for this one.
        masked: sizes of the choices that their masks of legal actions are about; none:
            they have no masks.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        size: int,
        workers: int,
        masked: Sequence[int] = (),
    ):
        vector = library("gymnasium.vector", extra="rl-host")
        from tasks.workers import Several

        self.name, self.size = name, size
        # Dealt out in turn, so that all workers are busy when few are needed.
        parts = min(max(workers, 1), size)
        self._shape = (number := -(-size // parts), parts)
        makers = [
            functools.partial(
                Several,
                name,
                dict(options),
                tuple(masked),
                slice(i, None, parts),
                number,
            )
            for i in range(parts)
        ]
        if workers:
            # A fork of a process in which JAX runs threads may hang.
            methods = multiprocessing.get_all_start_methods()
            method = "forkserver" if "forkserver" in methods else "spawn"
            try:
                self._vector = vector.AsyncVectorEnv(makers, copy=False, context=method)
            except (EOFError, OSError) as error:
                raise UserError(
                    f"{name}: worker processes do not start ({error!r}): a script that "
                    'uses them must keep its work under `if __name__ == "__main__":`; '
                    "processes=0 does without them"
                ) from error
        else:
            self._vector = vector.SyncVectorEnv(makers, copy=False)
        self._close = weakref.finalize(self, _close, self._vector)

    def reset(
        self,
        seeds: UInt32[np.ndarray, " environments"],
        begins: Bool[np.ndarray, " environments"] | None = None,
    ) -> Seen:
        """Begin an episode with each seed; returns what is seen first.

        Where `begins` is false nothing does, and it is what was seen last.
        """
        begins = np.ones(seeds.shape, bool) if begins is None else begins
        given = zip(seeds.tolist(), begins, strict=True)
        options = {"seeds": [seed if one else None for seed, one in given]}
        seen, info = self._run(lambda: self._vector.reset(options=options))
        return self._read(seen, info, len(seeds))

    def step(
        self,
        actions: Shaped[np.ndarray, "environments ..."],
        alive: Bool[np.ndarray, " environments"],
    ) -> Seen:
        """Step those environments that are alive."""
        action = {"action": self._split(actions), "alive": self._split(alive)}
        seen, *_, info = self._run(lambda: self._vector.step(action))
        return self._read(seen, info, len(alive))

    def close(self) -> None:
        """End the workers. It happens by itself when nobody needs the pool."""
        self._close()

    def _run(self, call):
        try:
            return call()
        except (EOFError, OSError) as error:
            for process in getattr(self._vector, "processes", ()):
                process.terminate()
            self._vector.closed = True  # it would wait for an answer of the dead
            raise UserError(
                f"{self.name}: a worker process has died ({error!r}): memory may be "
                "short, or the environment may have crashed; processes=0 runs it in "
                "this process"
            ) from error

    def _read(self, seen: Mapping[str, np.ndarray], info: dict, count: int) -> Seen:
        for text in info.get("error", ()):
            if text is not None:
                last = text.strip().splitlines()[-1]
                raise UserError(
                    f"{self.name}: the environment has failed: {last}\n\n{text}"
                )
        flat = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:count]
        return Seen(
            flat(seen["observation"]),
            flat(seen["reward"]),
            flat(seen["terminated"]).astype(bool),
            flat(seen["truncated"]).astype(bool),
            flat(seen["legal"]).astype(bool) if "legal" in seen else None,
        )

    def _split(self, values: np.ndarray) -> np.ndarray:
        """Spread values over the workers; those left over get zeros."""
        whole = np.zeros((math.prod(self._shape), *values.shape[1:]), values.dtype)
        whole[: len(values)] = values
        return whole.reshape(*self._shape, *values.shape[1:]).swapaxes(0, 1)


class Played(NamedTuple):
    """What became of some members' episodes, as in `rollout.Episodes`."""

    returns: Float[np.ndarray, "members episodes"]
    lengths: Int[np.ndarray, "members episodes"]
    terminated: Bool[np.ndarray, "members episodes"]


# (observation, alive, time, legal) -> actions; each with axes of members and episodes.
Act = Callable[[np.ndarray, np.ndarray, int, np.ndarray | None], np.ndarray]


class Playable(Protocol):
    """What `play` needs of a pool."""

    def reset(self, seeds: UInt32[np.ndarray, " environments"], /) -> Seen: ...

    def step(
        self,
        actions: Shaped[np.ndarray, "environments ..."],
        alive: Bool[np.ndarray, " environments"],
        /,
    ) -> Seen: ...


def play(
    pool: Playable, act: Act, seeds: UInt32[np.ndarray, "members episodes"], limit: int
) -> Played:
    """Run episodes side by side until the last of them has ended.

    What makes an episode void is as in `rollout`.

    Args:
        pool: has at least as many environments as there are seeds.
        act: chooses all actions at once; those of ended episodes are thrown away.
        seeds: one an episode.
        limit: steps after which an episode is truncated.
    """
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    fold = lambda x: x.reshape(*seeds.shape, *x.shape[1:])
    folded = lambda seen: seen.each(fold)
    seen, alive = folded(pool.reset(flat(seeds))), np.ones(seeds.shape, bool)
    played = Played(np.zeros(seeds.shape), np.zeros(seeds.shape, np.int32), ~alive)
    for time in range(limit):
        acts = alive & seen.can_act
        # The policy gets a copy: the next step changes the original.
        action = act(seen.observation.astype(np.float32), acts, time, seen.legal)
        seen = folded(pool.step(flat(action), flat(acts)))
        reward = np.where(acts, seen.reward, np.nan)
        played = Played(
            played.returns + np.where(alive, reward, 0),
            played.lengths + acts,
            played.terminated | (acts & seen.terminated),
        )
        alive = acts & np.isfinite(reward) & ~seen.terminated & ~seen.truncated
        if not alive.any():
            break
    return played


def _close(vector: Any) -> None:
    if not vector.closed:
        vector.close(timeout=5)  # seconds, for a step that was interrupted

"""Gymnasium environments stepped by one process; each worker process imports this.

Hence no import of JAX, here or in the package: that would cost each worker seconds.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space


def make(name: str, options: Mapping[str, Any]) -> gymnasium.Env:
    """Make one environment whose observations are one array."""
    environment = gymnasium.make(name, disable_env_checker=True, **options)
    if isinstance(environment.observation_space, spaces.Box):
        return environment
    return gymnasium.wrappers.FlattenObservation(environment)


def legal(info: Mapping[str, Any], sizes: Sequence[int]) -> np.ndarray:
    """Which actions a state allows, a flag for each possibility of each choice.

    A state that leaves nothing of one choice allows nothing at all.

    Args:
        info: of a reset or a step. Where it has no `action_mask`, all is allowed.
        sizes: of the choices.

    Raises:
        ValueError: the mask has another size.
    """
    mask = info.get("action_mask")
    if mask is None:
        return np.ones(sum(sizes), bool)
    parts = mask if isinstance(mask, tuple) else (mask,)
    flags = np.concatenate([np.ravel(part) for part in parts]).astype(bool)
    if flags.size != sum(sizes):
        raise ValueError(
            f"info['action_mask']: expected {sum(sizes)} flags, one for each action, "
            f"got {flags.size}"
        )
    choices = np.split(flags, np.cumsum(sizes)[:-1])
    return flags & all(choice.any() for choice in choices)


class Several(gymnasium.Env):
    """Several environments as one, so that few processes serve many environments.

    None is ever reset unasked. What an environment raises is returned as text, under
    `error` of `info`: so it reaches the user in one piece, however many processes
    there are.

    An action is a dictionary of `action`, one for each environment, and `alive`, which
    of them to step. An observation is a dictionary of `observation`, `reward`,
    `terminated`, `truncated` and, where a mask comes with them, `legal`, one for each;
    what is not stepped keeps its values.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        masked: Sequence[int],
        own: slice,
        number: int,
    ):
        """Prepare at most `number` environments: `own` of them all.

        Their masks are of choices of the sizes in `masked`; none: there are no masks.
        """
        if multiprocessing.parent_process() is not None:
            # Ctrl-C reaches the whole process group: when to stop is the parent's word.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._make = lambda: make(name, options)
        self._own, self._masked = own, masked
        self._environments = [first := self._make()]  # others when they are needed
        flags = spaces.MultiBinary(number)
        seen = batch_space(first.observation_space, number)
        self._seen = {
            "observation": np.zeros(cast(Any, seen.shape), seen.dtype),
            "reward": np.zeros(number),
            "terminated": np.zeros(number, flags.dtype),
            "truncated": np.zeros(number, flags.dtype),
        }
        kinds = {
            "observation": seen,
            "reward": spaces.Box(-np.inf, np.inf, (number,), np.float64),
            "terminated": flags,
            "truncated": flags,
        }
        if masked:
            kinds["legal"] = spaces.MultiBinary((number, sum(masked)))
            self._seen["legal"] = np.ones((number, sum(masked)), flags.dtype)
        self.observation_space = spaces.Dict(kinds)
        self.action_space = spaces.Dict(
            action=batch_space(first.action_space, number), alive=flags
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset as many environments as `options["seeds"]` has seeds for these.

        One whose seed is None stays where it is.
        """
        del seed
        assert options is not None
        seeds = options["seeds"][self._own]
        try:
            while len(self._environments) < len(seeds):
                self._environments.append(self._make())
            for i, one in enumerate(seeds):
                if one is not None:
                    seen, info = self._environments[i].reset(seed=one)
                    self._seen["observation"][i] = seen
                    self._note(i, info)
        except Exception:
            return self._seen, {"error": traceback.format_exc()}
        return self._seen, {}

    def step(
        self, action: dict[str, Any]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Step those environments that are alive."""
        seen, info = self._seen, {}
        try:
            for i in np.flatnonzero(action["alive"]):
                (
                    seen["observation"][i],
                    seen["reward"][i],
                    seen["terminated"][i],
                    seen["truncated"][i],
                    told,
                ) = self._environments[i].step(action["action"][i])
                self._note(int(i), told)
        except Exception:
            info = {"error": traceback.format_exc()}
        return seen, 0.0, False, False, info

    def _note(self, i: int, info: Mapping[str, Any]) -> None:
        if self._masked:
            self._seen["legal"][i] = legal(info, self._masked)

    def close(self) -> None:
        for environment in self._environments:
            environment.close()

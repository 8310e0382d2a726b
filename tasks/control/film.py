"""One episode of a Gymnasium environment, and a picture of each of its steps."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped, UInt8, UInt32

from eggroll import UserError
from eggroll.runs import Frame
from tasks.control.environment import library
from tasks.control.pool import Seen


class Film:
    """A `Pool` of one environment, in this process, that keeps what it looks like.

    Attributes:
        frames: the start and what came of every step.

    Args:
        name: of the environment, as Gymnasium knows it.
        options: passed on to it.
        masked: as of `Pool`.

    Raises:
        UserError: it has no render mode `rgb_array`.
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], masked: Sequence[int] = ()
    ):
        library("gymnasium", extra="rl-host")
        from tasks.workers import legal, make  # needs Gymnasium

        self._masked, self._legal = masked, legal
        self._name, self._total, self.frames = name, 0.0, []
        environment = make(name, options)
        modes = environment.metadata.get("render_modes", ())
        environment.close()
        if "rgb_array" not in modes:
            raise UserError(
                f"{name} cannot be drawn: expected a render mode 'rgb_array', got "
                f"{', '.join(modes) or 'none'}"
            )
        self._environment = make(name, {**options, "render_mode": "rgb_array"})

    def reset(self, seeds: UInt32[np.ndarray, " 1"]) -> Seen:
        """Begin an episode."""
        observation, info = self._environment.reset(seed=int(seeds[0]))
        self._keep()
        return self._seen((observation, 0.0, False, False), info)

    def step(
        self, actions: Shaped[np.ndarray, "1 ..."], alive: Bool[np.ndarray, " 1"]
    ) -> Seen:
        """Take a step; what is no more alive is not asked for one."""
        del alive
        *seen, info = self._environment.step(actions[0])
        self._total += float(seen[1])
        self._keep()
        return self._seen(seen, info)

    def _seen(self, seen: Sequence[Any], info: Mapping[str, Any]) -> Seen:
        made = Seen(*(np.asarray(one)[None] for one in seen))
        if not self._masked:
            return made
        return made._replace(legal=self._legal(info, self._masked)[None])

    def _keep(self) -> None:
        try:
            image = self._environment.render()
        except Exception as error:  # of a library that is not installed, for one
            raise UserError(f"{self._name} cannot be drawn: {error}") from error
        image = np.ascontiguousarray(image, np.uint8)
        caption = f"step {len(self.frames)}   return {self._total:.4g}"
        packed = zlib.compress(image.tobytes(), 1)  # an episode may have many
        draw = functools.partial(_unpacked, packed, image.shape)
        self.frames.append(Frame(caption, draw))


def _unpacked(
    packed: bytes, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "height width 3"]:
    return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)

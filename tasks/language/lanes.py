"""Reading a corpus in parallel lanes, and what is known of it before any learning."""

import dataclasses
import gzip
import math

import numpy as np
from jaxtyping import Float, Int, UInt8

from eggroll import UserError
from tasks.language.corpus import Bytes


@dataclasses.dataclass(frozen=True)
class Lanes:
    """A text cut into contiguous lanes of equal length that are read side by side.

    What a step reads is a function of its number alone, so that a run resumes without
    a cursor of its own. At the end of the lanes reading starts over.

    Attributes:
        text: the bytes.
        lanes: how many sequences are read at once.
        tokens: how many bytes of each a step predicts.
    """

    text: Bytes
    lanes: int
    tokens: int

    def __post_init__(self):
        if self.lanes < 1 or self.tokens < 1:
            raise UserError(
                f"lanes and tokens must be at least 1, got {self.lanes}, {self.tokens}"
            )
        if self.length < self.tokens + 1:
            raise UserError(
                f"the corpus is too short: {self.lanes} lanes of {self.tokens} + 1 "
                f"bytes need {self.lanes * (self.tokens + 1):,}, got "
                f"{len(self.text):,}: use fewer lanes, or a longer text"
            )

    @property
    def length(self) -> int:
        """Bytes a lane."""
        return len(self.text) // self.lanes

    @property
    def steps(self) -> int:
        """How many steps read all of the lanes once."""
        return (self.length - 1) // self.tokens

    def read(
        self, step: int, rows: slice = slice(None)
    ) -> UInt8[np.ndarray, "lanes {self.tokens}+1"]:
        """Returns what one step reads: tokens, and as one more the last target.

        Args:
            step: number of the step.
            rows: the lanes that are wanted here; a host may read its own only.
        """
        first = (step % self.steps) * self.tokens
        starts = np.arange(self.lanes)[rows] * self.length + first
        return np.stack([self.text[s : s + self.tokens + 1] for s in starts])


def references(text: Bytes) -> dict[str, float]:
    """Returns the bits a byte that simple models need for a text.

    Each is fitted to the very text that it is measured on. `unigram` and `bigram` are
    the entropies of a byte, and of a byte given the one before it.
    """
    counts = np.bincount(text, minlength=256)
    pairs = np.bincount(
        text[:-1].astype(np.int64) * 256 + text[1:], minlength=2**16
    ).reshape(256, 256)
    joint, before = _entropy(pairs), _entropy(pairs.sum(axis=1))
    return {
        "uniform": 8.0,
        "unigram": _entropy(counts),
        "bigram": joint - before,
        "gzip": 8 * len(gzip.compress(text.tobytes(), 9, mtime=0)) / len(text),
    }


def _entropy(counts: Int[np.ndarray, "..."]) -> float:
    share: Float[np.ndarray, " seen"] = counts[counts > 0] / counts.sum()
    return -math.fsum(share * np.log2(share))

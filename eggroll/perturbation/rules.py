"""How leaves of a model are to be perturbed: rules, and patterns that choose them."""

import dataclasses
import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class LowRank:
    """A leaf perturbed by A Bᵀ / √rank; see `low_rank`."""

    rank: int = 1
    sigma_scale: float = 1.0
    quantised: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        _check_scale(self.sigma_scale)


@dataclasses.dataclass(frozen=True)
class FullRank:
    """A leaf each element of which is perturbed independently; see `full_rank`."""

    sigma_scale: float = 1.0
    quantised: bool = False

    def __post_init__(self) -> None:
        _check_scale(self.sigma_scale)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A leaf that is not evolved; `frozen` is the only one needed."""


Rule = LowRank | FullRank | Frozen
Said = TypeVar("Said")  # what is said of a leaf


class Rules(Mapping[str, Said], Generic[Said]):
    """Rules by path pattern, in order; never changed, so that it can be hashed."""

    def __init__(self, rules: Mapping[str, Said]):
        self.pairs = tuple(rules.items())

    def __getitem__(self, pattern: str) -> Said:
        return dict(self.pairs)[pattern]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self.pairs == other.pairs

    def __repr__(self) -> str:
        return repr(dict(self.pairs))

    def find(self, path: str) -> Said | None:
        """The rule of the first pattern that matches a path, if one does."""
        return next((rule for p, rule in self.pairs if matches(path, p)), None)

    def check(self, paths: Iterable[str]) -> None:
        """Refuses a pattern that matches no leaf.

        Raises:
            ValueError: naming the leaves there are.
        """
        paths = list(paths)
        for pattern in self:
            if not any(matches(path, pattern) for path in paths):
                raise ValueError(
                    f"the rule {pattern!r} matches no leaf; there are: "
                    f"{', '.join(paths)}"
                )


def low_rank(
    rank: int = 1, sigma_scale: float = 1.0, *, quantised: bool = False
) -> LowRank:
    """Perturbs a leaf by A Bᵀ / √rank (arXiv 2511.16652, section 3).

    Args:
        rank: of the perturbation.
        sigma_scale: the leaf's sigma, as a multiple of the strategy's.
        quantised: evolve the leaf even if it is of whole numbers, which stay as they
            are: each member's are whole numbers plus noise, in floating point. The
            function has to convert them to a floating-point type before it computes
            with them. Sigma and gradient are in steps of the whole numbers: where a
            step is worth `unit` of a weight, `sigma_scale=1 / unit` makes of it what it
            is for the weight. (Otherwise whole numbers do not evolve.)

    Raises:
        ValueError: if `rank` is below 1 or `sigma_scale` is not positive.
    """
    return LowRank(rank, sigma_scale, quantised)


def full_rank(sigma_scale: float = 1.0, *, quantised: bool = False) -> FullRank:
    """Perturbs each element of a leaf independently, as OpenAI-ES does.

    Args:
        sigma_scale: the leaf's sigma, as a multiple of the strategy's.
        quantised: as in `low_rank`.

    Raises:
        ValueError: if `sigma_scale` is not positive.
    """
    return FullRank(sigma_scale, quantised)


frozen = Frozen()


def can_evolve(dtype: Any, rule: Rule | None) -> bool:
    """Whether a rule (None: no rule of its own) evolves arrays of a type.

    Those of floating-point numbers; of whole numbers where a rule says `quantised`.
    """
    if isinstance(rule, Frozen):
        return False
    if jnp.issubdtype(dtype, jnp.floating):
        return True
    is_whole = jnp.issubdtype(dtype, jnp.integer)
    return is_whole and rule is not None and rule.quantised


def of_rank(rank: int | None) -> LowRank | FullRank:
    """The rule of a strategy's rank, where None is full rank."""
    return FullRank() if rank is None else LowRank(rank)


def matches(path: str, pattern: str) -> bool:
    """Whether a glob pattern names a path; `**/x` names `x` at the top, too.

    A path names itself, also behind `**/`: where it has brackets, as in `w[0,0] 1x0e`,
    they would stand for one of several characters in a pattern. What Flax NNX puts
    behind the name of a variable, `/value`, may be left out.
    """
    variable = path.removesuffix("/value")
    return any(_matches(name, pattern) for name in {path, variable})


def _matches(path: str, pattern: str) -> bool:
    if path == pattern or fnmatch.fnmatchcase(path, pattern):
        return True
    if not pattern.startswith("**/"):
        return False
    rest = pattern[3:]
    return path.endswith(f"/{rest}") or _matches(path, rest)


def _check_scale(sigma_scale: float) -> None:
    if not sigma_scale > 0:
        raise ValueError(
            f"sigma_scale must be positive, got {sigma_scale}; use eggroll.frozen for "
            f"a leaf that must not move"
        )

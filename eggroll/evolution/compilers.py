"""What is to be known of compilers: their faults, and an option worth setting.

Some are known to compute wrongly; who has one is warned.

The library's dependencies exclude them, which does not help an environment that was
made without asking them. docs/compilers.md tells more; its canaries, in
tests/evolution/test_canary.py, look for faults that are not known yet.
"""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jaxlib


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is known of a fault.

    Attributes:
        versions: of jaxlib, which brings the compiler, that have it.
        backend: where it shows.
        effect: what happens.
        sources: who reported it.
        flag: of XLA_FLAGS: set to nothing, it switches off what is at fault.
    """

    versions: tuple[str, ...]
    backend: str
    effect: str
    sources: tuple[str, ...]
    flag: str

    @property
    def advice(self) -> str:
        """What to do about it: the remedies."""
        others = " ".join(
            f"'{package}{','.join(f'!={one}' for one in self.versions)}'"
            for package in ("jax", "jaxlib")
        )
        return (
            f"install another version (pip install {others}), or set "
            f"XLA_FLAGS={self.flag}= before JAX starts"
        )


FAULTS = (
    Fault(
        versions=("0.10.2",),
        backend="cpu",
        effect="products of vectors and matrices, as of a population's members, are "
        "wrong from some member on, without an error; and sums of products of arrays "
        "with seven dimensions end the process",
        sources=(
            "https://github.com/jax-ml/jax/issues/39103",
            "https://github.com/jax-ml/jax/issues/39257",
            "https://github.com/jax-ml/jax/issues/40412",
        ),
        flag="--xla_cpu_experimental_ynn_fusion_type",
    ),
)


def frugal() -> dict[str, Any]:
    """Options of compilation with which programs take less memory, at the same speed.

    XLA's CPU backend orders what has no order so that much can run at once, and keeps
    much at once: up to 2.6 times the temporary arrays, where all leaves of a model are
    updated. Asked to, it orders as other backends do, with the same results.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def jit(function: Callable, **options: Any) -> Any:
    """Compiles a program of a run: `jax.jit`, but with `frugal` options."""
    return jax.jit(function, compiler_options=frugal(), **options)


@functools.cache  # one look a process, one warning
def warn_if_known_bad() -> None:
    """Warns if the running compiler is known to compute wrongly, and nothing avoids it.

    The backend is asked for only then: asking starts it.
    """
    version = jaxlib.__version__.partition("+")[0]  # whoever built it
    for fault in FAULTS:
        is_concerned = version in fault.versions and not _is_set_to_nothing(fault.flag)
        if is_concerned and jax.default_backend() == fault.backend:
            warnings.warn(
                f"jaxlib {version} computes wrongly on {fault.backend}: {fault.effect} "
                f"({', '.join(fault.sources)}). Do not trust its results: "
                f"{fault.advice}",
                RuntimeWarning,
                stacklevel=3,
            )


def _is_set_to_nothing(flag: str) -> bool:
    """Whether XLA_FLAGS gives a flag an empty value; its last occurrence counts."""
    start = f"{flag}="
    words = os.environ.get("XLA_FLAGS", "").split()
    values = [word.removeprefix(start) for word in words if word.startswith(start)]
    return values[-1:] in ([""], ['""'], ["''"])

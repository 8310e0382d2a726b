"""What was compiled once is kept for the next command, in the user's cache directory.

Of commands alone: who imports `eggroll` decides for themselves. JAX's own settings come
first: `JAX_COMPILATION_CACHE_DIR`, and `JAX_ENABLE_COMPILATION_CACHE=0` for none.
"""

import contextlib
import hashlib
import os
import platform
from pathlib import Path


VARIABLE = "EGGROLL_CACHE"  # in place of `eggroll` in the user's cache directory
LARGEST = 2**30  # bytes, after each command's start
LEVEL, JAX_LEVEL = "TF_CPP_MIN_LOG_LEVEL", "1"  # what JAX sets if nobody has
SHORTEST = 0.1  # seconds that compiling takes of what is worth keeping


def keep(largest: int = LARGEST) -> Path | None:
    """Has JAX keep what it compiles from now on, and find what it kept before.

    Args:
        largest: Bytes in all; what was not used for longest goes first.

    Returns:
        The directory; None if there is none, because JAX has one already, or the user
        wants none, or it cannot be written.
    """
    import jax

    known = jax.config.jax_compilation_cache_dir  # pyrefly: ignore[missing-attribute]
    is_wanted = jax.config.jax_enable_compilation_cache  # pyrefly: ignore[missing-attribute]
    if known is not None or not is_wanted:
        return None
    path = _base() / "compiled" / _machine()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(path, os.W_OK):
            return None
        _shrink(path, largest)
    except OSError:  # of a home that is not there, or not ours: compiled each time
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    if jax.__version_info__ < (0, 12) and os.environ.get(LEVEL) == JAX_LEVEL:
        _calm()
    return path


def _calm() -> None:
    """Lets XLA tell fatal errors alone: Python raises the others.

    Older jaxlib tells at length, of each program found again, that this processor lacks
    +prefer-no-gather, which is a preference of the compiler and no feature:
    https://github.com/openxla/xla/issues/44565.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from jaxlib import utils

        utils.absl_set_min_log_level(3)


def _base() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "eggroll"


def _machine() -> str:
    """A name for the processor: code for one need not run on another of the network."""
    features = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features = next((one for one in lines if one.startswith("flags")), "")
    features += platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


def _shrink(path: Path, largest: int) -> None:
    """Deletes what was not used for longest until the rest is small enough."""
    found = []
    for file in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process does the same
            facts = file.stat()
            found.append((max(facts.st_atime, facts.st_mtime), facts.st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found, key=lambda one: one[0]):
        if total <= largest:
            break
        file.unlink(missing_ok=True)
        total -= size

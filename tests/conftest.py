"""What all tests share. Imports no package of ours, so that each test may."""

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


# Many tests compile the same small programs: the second time takes a tenth.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache")
)
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="eggroll-state-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Those that start a Python have it read our sources compiled, as if installed.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jax
import pytest


# The collector looks through all that JAX keeps: a twentieth of the time, if let.
gc.set_threshold(50_000, 20, 20)


def xla_flags(given: str) -> str:
    """Those of the tests, for XLA as it is installed."""
    # Eight simulated devices: sharding is tested on any machine, and a test that asks
    # for no mesh runs on the first of them as it would on a single one.
    flags = [given, "--xla_force_host_platform_device_count=8"]
    if "--xla_backend_optimization_level=0" in given:  # the Makefile is in a hurry
        flags.append("--xla_cpu_parallel_codegen_split_count=1")
        if jax.__version_info__ < (0, 11):
            flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""))  # read later


@pytest.fixture
def getkey(request: pytest.FixtureRequest) -> Callable[[], jax.Array]:
    """A function that returns a new PRNG key at each call, the same in each run."""
    key = jax.random.key(sum(map(ord, request.node.name)))
    count = 0

    def getkey() -> jax.Array:
        nonlocal count
        count += 1
        return jax.random.fold_in(key, count)

    return getkey

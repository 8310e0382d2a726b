"""Plain pytrees stay what they are, and no library is loaded for them."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import adapters


OURS = {"eggroll.adapters.dispatch", "eggroll.adapters.interface"}


def test_plain_pytrees_are_what_they_were():
    params, args, kwargs = {"w": jnp.ones(3), "f": len}, (jnp.ones(3),), {"scale": 2.0}
    fn = lambda params, x, scale, key=0: params["w"] @ x * scale + key
    call = adapters.opened(fn, params, args, kwargs)
    assert (call.params, call.args, call.kwargs) == (params, args, kwargs)
    value, state = call.function(params, *args, **kwargs, key=1)
    np.testing.assert_array_equal(value, 7.0)
    assert state is None
    call.write_back(state)
    assert call.close(params) is params


@pytest.mark.parametrize("loaded", ["", "flax.nnx", "equinox"])
def test_an_adapter_is_loaded_where_its_library_is(loaded):
    program = f"""if True:
        import sys
        {f"import {loaded}" if loaded else ""}
        from eggroll import adapters
        adapters.opened(len, {{"w": 1}})
        print(*(x for x in ("flax.nnx", "equinox") if x in sys.modules))
        print(*(x for x in sys.modules if x.startswith("eggroll.adapters.")))
    """
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, check=True
    )
    libraries, ours = run.stdout.decode().splitlines()
    assert libraries == loaded
    own = {f"eggroll.adapters.{loaded.split('.')[-1]}"} if loaded else set()
    assert {*ours.split()} == own | OURS

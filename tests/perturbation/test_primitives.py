"""The primitives that rules are written for are those that the installed JAX has.

A rule is found by the name of a primitive: renamed, it would be found no more, and
matrices would lose their low rank at it.
"""

import pytest
from primitives import OTHERS, RULES, installed


# Of other versions of JAX than the one installed, and of other libraries.
ELSEWHERE = {
    "checkpoint": "remat2, in tracebacks and versions",
    "closed_call": "JAX 0.10",
    "copy_p": "copy, in versions",
    "core_call": "call, before JAX 0.10",
    "custom_vjp_call_jaxpr": "custom_vjp_call, before JAX 0.10",
    "linear_solve": "lineax",
    "pjit": "jit, before JAX 0.10",
}


@pytest.fixture(scope="module")
def here():
    return installed()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [RULES, OTHERS], ids=["rules", "others"])
def test_no_name_is_gone(names, here):
    gone = names - here - ELSEWHERE.keys()
    assert not gone, (
        f"JAX has no primitive {', '.join(sorted(gone))} any more: see whether it has "
        f"another name (python tests/support/primitives.py), or list it in ELSEWHERE"
    )


def test_what_belongs_to_other_versions_is_known_by_name():
    assert ELSEWHERE.keys() <= RULES | OTHERS

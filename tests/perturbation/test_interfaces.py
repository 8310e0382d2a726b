"""Every private or unstable interface of JAX in use, by name.

When a new JAX changes one, the test that fails says which, before a function of a user
fails in a way that does not.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend import core, source_info_util
from jax.interpreters import partial_eval

from eggroll.perturbation import jaxprs, meshes


ROOT = Path(__file__).parent.parent.parent
MODULES = {
    "jax.extend.core": (core, ["ClosedJaxpr", "Jaxpr", "JaxprEqn", "Literal", "Var"]),
    "jax.extend": (core, ["jaxpr_as_fun"]),
    "jax.extend.source_info_util": (
        source_info_util,
        ["current_name_stack", "user_context"],
    ),
    "jax.interpreters": (partial_eval, ["dce_jaxpr"]),
    "jax.sharding": (
        jax.sharding,
        ["AbstractMesh", "AxisType", "get_abstract_mesh", "use_abstract_mesh"],
    ),
    "jax.sharding.AbstractMesh": (
        jax.sharding.AbstractMesh,
        ["empty", "explicit_axes", "manual_axes", "update_axis_types"],
    ),
    "jax.sharding.NamedSharding": (jax.sharding.NamedSharding, ["update"]),
    "jax.lax": (lax, ["pcast", "optimization_barrier"]),
}


@pytest.mark.parametrize(
    ("where", "name"),
    [(where, name) for where, (_, names) in MODULES.items() for name in names],
)
def test_modules_have_what_is_used_of_them(where, name):
    assert hasattr(MODULES[where][0], name), f"JAX has no {where}.{name} any more"


def equation(function, primitive):
    closed = jax.make_jaxpr(function)(jnp.ones(3))
    (found,) = (e for e in closed.eqns if e.primitive.name == primitive)
    return found


def shards(part):
    types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("x",), axis_types=types)
    spec = jax.sharding.PartitionSpec("x")
    return jax.shard_map(part, mesh=mesh, in_specs=spec, out_specs=spec)


step = lambda c, x: (c, x)
PARAMETERS = {
    "scan": (
        lambda x: lax.scan(step, 0.0, x),
        ["jaxpr", "length", "reverse", "unroll", {"ft_in", "num_consts"}],
    ),
    "while": (
        lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x),
        ["cond_jaxpr", "body_jaxpr", "cond_nconsts", "body_nconsts"],
    ),
    "cond": (lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), ["branches"]),
    "jit": (jax.jit(jnp.sin), ["jaxpr"]),
    "custom_jvp_call": (jax.nn.relu, ["call_jaxpr"]),
    "gather": (
        lambda x: x[jnp.array([0, 2])],
        ["dimension_numbers", "slice_sizes", "mode", "fill_value"],
    ),
    "shard_map": (
        lambda x: shards(jnp.sin)(x),
        [
            "jaxpr",
            "mesh",
            "in_specs",
            "out_specs",
            "check_vma",
            {"newly_manual_axes", "manual_axes"},
        ],
    ),
    "dot_general": (
        lambda x: x @ x,
        ["dimension_numbers", "precision", "out_sharding", "preferred_element_type"],
    ),
}


@pytest.mark.parametrize("primitive", PARAMETERS)
def test_equations_have_the_parameters_that_rules_read(primitive):
    function, names = PARAMETERS[primitive]
    params = {*equation(function, primitive).params}
    for name in names:
        either = name if isinstance(name, set) else {name}
        assert either & params, f"`{primitive}` has no parameter {name} any more"


def test_an_equation_says_its_context_and_place():
    eqn = equation(jnp.negative, "neg")
    for path in (
        "ctx.manager",
        "ctx.cur_abstract_mesh",
        "source_info.traceback",
        "source_info.name_stack",
        "primitive.get_bind_params",
        "primitive.bind",
        "primitive.multiple_results",
    ):
        found = eqn
        for part in path.split("."):
            assert hasattr(found, part), f"an equation has no {path} any more"
            found = getattr(found, part)


def test_what_is_asked_for_carefully_is_still_there():
    """A missing attribute would be taken for a no."""
    seen = []
    jax.eval_shape(shards(lambda x: seen.append(jax.typeof(x)) or x), jnp.ones(3))
    assert meshes.varying(seen[0]) == {"x"}, "types have no manual_axis_type any more"
    said = lambda x: jax.debug.print("{}", x, ordered=True) or x
    closed = jax.make_jaxpr(said)(1.0)
    assert jaxprs.has_ordered_effects(closed), "no effect is called Ordered any more"
    held = jax.make_jaxpr(lambda x: jax.new_ref(x)[...])(jnp.ones(3))
    references = [v for e in held.eqns for v in e.outvars if jaxprs.is_reference(v)]
    assert references, "types of references have no inner_aval any more"


def test_no_other_unstable_module_is_imported():
    """A new one is written down above, and here."""
    text = "".join(path.read_text() for path in (ROOT / "eggroll").rglob("*.py"))
    found = {*re.findall(r"from (jax\.(?:_src|extend|interpreters)\S*) import", text)}
    assert found == {"jax.extend", "jax.extend.core", "jax.interpreters"}

"""How a leaf is perturbed follows from what the model does with it, and from rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import eggroll
from eggroll import frozen, full_rank, low_rank
from eggroll.perturbation.rules import matches


def plan(fn, params, *args, **settings):
    """The layouts of a model's leaves by path."""
    report = eggroll.coverage(fn, params, *args, **settings)
    return {leaf.layout.path: leaf.layout for leaf in report.leaves}


def zeros(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


SCAN = lambda w, h: lax.scan(lambda h, w: (jnp.tanh(h @ w), 0), h, w)[0]
LOOP = lambda w, h: lax.fori_loop(0, w.shape[0], lambda i, h: jnp.tanh(h @ w[i]), h)

# name: (function, leaf, argument, (batch, rows, columns)); no columns: full rank
USES = {
    "matrix on the right": (lambda w, x: x @ w, (4, 3), (4,), ((), (0,), (1,))),
    "matrix on the left": (lambda w, x: w @ x, (4, 3), (3,), ((), (1,), (0,))),
    "several contracted dimensions": (
        lambda w, x: jnp.einsum("ij,ijkl->kl", x, w),
        (4, 3, 2, 5),
        (4, 3),
        ((), (0, 1), (2, 3)),
    ),
    "conv": (
        lambda w, x: lax.conv(x, w, (1, 1), "SAME"),
        (5, 3, 2, 2),
        (1, 3, 8, 8),
        ((), (1, 2, 3), (0,)),
    ),
    "embedding": (
        lambda w, x: w[x.astype(int)],
        (9, 4),
        (5,),
        ((), (0,), (1,)),
    ),
    "embedding, one token at a time": (
        lambda w, x: lax.scan(lambda h, i: (h + w[i.astype(int)], 0), jnp.zeros(4), x),
        (9, 4),
        (5,),
        ((), (0,), (1,)),
    ),
    "tied embedding, one token": (
        lambda w, x: w @ w[x.astype(int)],
        (9, 4),
        (),
        ((), (0,), (1,)),
    ),
    "layers in a scan": (SCAN, (5, 4, 4), (4,), ((0,), (1,), (2,))),
    "layers by number, in a loop": (LOOP, (5, 4, 4), (4,), ((0,), (1,), (2,))),
    "layers by number": (
        lambda w, x: jnp.tanh(x @ w[0]) @ w[1],
        (2, 4, 4),
        (4,),
        ((0,), (1,), (2,)),
    ),
    "layers in two scans": (
        lambda w, x: lax.scan(lambda h, w: (SCAN(w, h), 0), x, w)[0],
        (2, 5, 4, 4),
        (4,),
        ((0, 1), (2,), (3,)),
    ),
    "layers unstacked": (
        lambda w, x: jnp.tanh(x @ jnp.unstack(w)[0]) @ jnp.unstack(w)[1],
        (2, 4, 4),
        (4,),
        ((0,), (1,), (2,)),
    ),
    "one matrix for each of a batch": (
        lambda w, x: jax.vmap(jnp.matmul)(x, w),
        (5, 4, 3),
        (5, 4),
        ((0,), (1,), (2,)),
    ),
    "one table for each of a batch": (
        lambda w, i: jax.vmap(lambda w, i: w[i.astype(int)])(w, i),
        (2, 9, 4),
        (2, 6),
        ((0,), (1,), (2,)),
    ),
    "layers joined by the function": (
        lambda w, x: SCAN(jnp.stack([w, w]), x),
        (4, 4),
        (4,),
        ((), (0,), (1,)),
    ),
    "vector": (lambda w, x: x + w, (4,), (4,), ((), (), ())),
    "number": (lambda w, x: x * w, (), (4,), ((), (), ())),
    "elementwise matrix": (lambda w, x: x * w, (4, 3), (4, 3), ((), (), ())),
    "vector contracted": (lambda w, x: x @ w, (4,), (4,), ((), (), ())),
    "one column": (lambda w, x: x @ w, (4, 1), (4,), ((), (), ())),
}


@pytest.mark.parametrize("case", USES.values(), ids=USES.keys())
def test_dimensions_follow_from_use(case):
    fn, leaf, argument, expected = case
    layout = plan(fn, zeros(*leaf), zeros(*argument), rank=2)["params"]
    assert (layout.batch, layout.rows, layout.cols) == expected
    assert layout.rule == (low_rank(2) if layout.cols else full_rank())


def test_factors_have_size_one_where_they_do_not_vary():
    layout = plan(SCAN, zeros(5, 4, 4), zeros(4), rank=2)["params"]
    assert layout.factor_shapes == ((5, 4, 1, 2), (5, 1, 4, 2))
    assert layout.values == 2 * (5 * 4 + 5 * 4)


def test_integers_are_not_evolved():
    params = {"w": zeros(4, 3), "table": jax.ShapeDtypeStruct((4,), jnp.int32)}
    layouts = plan(lambda p, x: x @ p["w"] + p["table"][0], params, zeros(4))
    assert layouts["table"].is_frozen
    assert not layouts["w"].is_frozen


def test_the_default_rank_may_be_full():
    layout = plan(lambda w, x: x @ w, zeros(4, 3), zeros(4), rank=None)["params"]
    assert layout.factor_shapes == ((4, 3, 1),)


# --- What is not evolved because of how it is used


def byol(p, x):
    """BYOL's loss: a student predicts what its stopped teacher sees."""
    student = jnp.tanh(x @ p["online"]) @ p["head"]
    teacher = lax.stop_gradient(jnp.tanh((x + 0.1) @ p["target"]))
    return jnp.mean((student - teacher) ** 2)


def simsiam(p, x):
    """SimSiam's: both are one network, stopped on the teacher's side alone."""
    student, teacher = jnp.tanh(x @ p["net"]) @ p["head"], jnp.tanh((x + 1) @ p["net"])
    return jnp.mean((student - lax.stop_gradient(teacher)) ** 2)


BYOL = {"online": zeros(4, 3), "head": zeros(3, 3), "target": zeros(4, 3)}
SIMSIAM = {"net": zeros(4, 3), "head": zeros(3, 3)}


def idle(fn, params, *args, **settings):
    return {path: x.idle for path, x in plan(fn, params, *args, **settings).items()}


def test_a_target_that_a_loss_stops_is_frozen():
    layouts = plan(byol, BYOL, zeros(5, 4), is_loss=True)
    assert layouts["target"].is_frozen
    assert layouts["target"].idle == "stop_gradient"
    assert not layouts["online"].is_frozen
    assert not layouts["head"].is_frozen


def test_stops_of_a_black_box_are_its_own_affair():
    assert idle(byol, BYOL, zeros(5, 4)) == dict.fromkeys(BYOL, "")


def test_a_leaf_stopped_in_one_of_its_uses_is_evolved():
    found = idle(simsiam, SIMSIAM, zeros(5, 4), is_loss=True)
    assert found == {"net": "", "head": ""}


@pytest.mark.parametrize("is_loss", [False, True])
def test_a_leaf_that_is_not_used_is_frozen(is_loss):
    params = {"w": zeros(4), "spare": zeros(4, 3), "count": zeros()}
    total = lambda p, x: x @ p["w"] + 0 * p["count"].ndim
    found = idle(total, params, zeros(4), is_loss=is_loss)
    assert found == {"w": "", "spare": "unused", "count": "unused"}


def test_no_rule_evolves_what_has_no_gradient():
    rules = {"*": low_rank(2)}
    layouts = plan(byol, BYOL, zeros(5, 4), is_loss=True, rules=rules)
    assert layouts["target"].rule == frozen
    rules = {"target": frozen, "*": full_rank()}
    layouts = plan(byol, BYOL, zeros(5, 4), is_loss=True, rules=rules)
    assert layouts["target"].idle == ""


def test_a_loss_of_which_all_is_stopped_is_refused():
    loss = lambda p, x: jnp.mean(lax.stop_gradient(x @ p["a"]))
    params = {"a": zeros(4, 3), "b": zeros(3), "c": zeros(3)}
    message = (
        r"nothing to evolve: b, c are not used by the function, a is reached through "
        r"stop_gradient alone.*give it as fitness="
    )
    with pytest.raises(ValueError, match=message):
        plan(loss, params, zeros(4), is_loss=True)
    assert not plan(loss, params, zeros(4))["a"].is_frozen


def test_a_function_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"params is not used.*depends on the param"):
        plan(lambda w, x: x, zeros(4, 3), zeros(4))


# --- Rules


MODEL = {
    "embed": {"table": zeros(9, 4)},
    "blocks": [{"kernel": zeros(4, 4), "scale": zeros(4)} for _ in range(2)],
}


def model(p, i):
    h = p["embed"]["table"][i]
    for block in p["blocks"]:
        h = h @ block["kernel"] * block["scale"]
    return h


INDEX = jax.ShapeDtypeStruct((5,), jnp.int32)


def ruled(rules, **settings):
    layouts = plan(model, MODEL, INDEX, rules=rules, **settings)
    return {path: layout.rule for path, layout in layouts.items()}


def test_leaves_are_named_by_their_path():
    paths = "blocks/0/kernel blocks/0/scale blocks/1/kernel blocks/1/scale embed/table"
    assert sorted(ruled({})) == paths.split()


def test_a_rule_decides_for_the_leaves_its_pattern_matches():
    rules = ruled({"**/kernel": low_rank(3, sigma_scale=2.0), "embed/*": frozen})
    assert rules["blocks/0/kernel"] == rules["blocks/1/kernel"] == low_rank(3, 2.0)
    assert rules["embed/table"] == frozen
    assert rules["blocks/0/scale"] == full_rank()


def test_the_first_match_decides():
    rules = ruled({"blocks/1/*": frozen, "**/kernel": full_rank()})
    assert rules["blocks/0/kernel"] == full_rank()
    assert rules["blocks/1/kernel"] == frozen


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("embed/table", "**/embed*", True),
        ("model/embed/table", "**/embed*", True),
        ("model/unembed/table", "**/embed*", False),
        ("blocks/0/attn/query", "**/attn/**", True),
        ("attn/query", "**/attn/**", True),
        ("blocks/0/kernel", "blocks/*/kernel", True),
        ("blocks/0/kernel", "blocks/[1-9]/kernel", False),
        ("blocks/0/kernel", "kernel", False),
        ("w[0,0] 1x0e", "w[0,0] 1x0e", True),
        ("linear/w[0,0] 1x0e", "linear/w[0,0] 1x0e", True),
        ("linear/w[0,0] 1x0e", "**/w[0,0] 1x0e", True),
        ("w[0,0] 1x0e", "**/w[0,0] 1x0e", True),
        ("linear/sow[0,0] 1x0e", "**/w[0,0] 1x0e", False),
        ("w[0,0] 1x0e", "w[[]0,0] *", True),
        ("w0 1x0e", "w[0,0] 1x0e", True),
        ("a*", "a*", True),
    ],
)
def test_patterns(path, pattern, expected):
    assert matches(path, pattern) is expected


def test_a_path_that_is_printed_with_brackets_can_be_given_back_as_a_rule():
    """The names of e3nn's weights."""
    params = {"linear": {"w[0,0] 1x0e": zeros(4, 4), "w[1,1] 2x1o": zeros(4, 4)}}
    apply = lambda p, x: x @ p["linear"]["w[0,0] 1x0e"] @ p["linear"]["w[1,1] 2x1o"]
    first, second = plan(apply, params, zeros(4))
    layouts = plan(apply, params, zeros(4), rules={first: frozen, second: low_rank(3)})
    assert (layouts[first].rule, layouts[second].rule) == (frozen, low_rank(3))
    mask = {"w[0,0] 1x0e": False, "w[1,1] 2x1o": True}
    assert eggroll.trainable(params, {first: frozen}) == {"linear": mask}


def test_a_pattern_that_matches_no_leaf_is_refused_and_the_leaves_are_named():
    with pytest.raises(ValueError, match=r"'\*\*/kernal' matches no leaf.*embed/table"):
        ruled({"**/kernal": frozen})


def test_a_low_rank_rule_makes_a_matrix_of_what_is_used_elementwise():
    layouts = plan(
        lambda w, x: x * w, zeros(4, 3), zeros(4, 3), rules={"*": low_rank(2)}
    )
    assert layouts["params"].factor_shapes == ((4, 1, 2), (1, 3, 2))


def test_a_vector_stays_full_rank_whatever_the_rule():
    assert ruled({"**/scale": low_rank(2, 0.5)})["blocks/0/scale"] == full_rank(0.5)


def test_everything_frozen_is_refused():
    with pytest.raises(ValueError, match=r"nothing to evolve.*check the parameters"):
        ruled({"*": frozen})


def test_parameters_without_a_floating_leaf_are_refused():
    with pytest.raises(ValueError, match=r"at least one floating-point leaf.*int32"):
        plan(lambda w, x: x + w, np.arange(3), zeros(3))


@pytest.mark.parametrize("make", [low_rank, full_rank])
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(make, scale):
    with pytest.raises(ValueError, match=r"sigma_scale must be positive.*frozen"):
        make(sigma_scale=scale)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank):
    with pytest.raises(ValueError, match="rank must be at least 1"):
        low_rank(rank)


def test_a_pattern_may_leave_out_what_nnx_puts_behind_variables():
    for pattern in ("**/kernel", "kernel", "*/kernel", "layers/0/kernel", "layers/*"):
        assert matches("layers/0/kernel/value", pattern) == (pattern != "kernel")

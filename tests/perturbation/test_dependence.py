"""How arguments reach results: through every function that JAX nests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P

from eggroll.perturbation.dependence import Reach, reaches


NONE, FREE, STOPPED, BOTH = Reach.NONE, Reach.FREE, Reach.STOPPED, Reach.BOTH
stop = lax.stop_gradient
V = jax.ShapeDtypeStruct((4,), jnp.float32)


@jax.custom_jvp
def with_jvp(a, b):
    return a * stop(b)


with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), tangents[0]))


@jax.custom_vjp
def with_vjp(a, b):
    return a * stop(b)


with_vjp.defvjp(lambda a, b: (with_vjp(a, b), b), lambda b, g: (g * b, None))


def sharded(a, b):
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    part = lambda a, b: lax.psum(a * stop(b), "data")
    return jax.shard_map(part, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())(
        a, b
    )


def written(a, b, c):
    memory = jax.new_ref(jnp.zeros(4))
    memory[...] = a
    return memory[...] + stop(b)


def scanned(f, length=3):
    return lambda *carry: lax.scan(lambda h, _: (f(*h), 0), carry, None, length)[0][0]


def layers(a, b, c):
    """`b` by layers that are used, `c` by layers that are stopped."""
    turn = lambda h, w: (h * w[0] + stop(w[1]), w[1])
    return lax.scan(turn, a, (jnp.stack([b, b]), jnp.stack([c, c])))[0]


# name: (function of vectors, how each reaches its result)
CASES = {
    "plainly": (lambda a, b: a * b, (FREE, FREE)),
    "not at all": (lambda a, b: a, (FREE, NONE)),
    "stopped": (lambda a, b: a * stop(b), (FREE, STOPPED)),
    "stopped once of twice": (lambda a, b: a * b + stop(b), (FREE, BOTH)),
    "stopped twice": (lambda a: stop(jnp.sin(stop(a))), (STOPPED,)),
    "a stopped result of both": (lambda a, b: a + stop(a * b), (BOTH, STOPPED)),
    "the quantity rounded": (lambda a: a + stop(jnp.round(a) - a), (BOTH,)),
    "a stop that is not used": (lambda a, b: (stop(b), a)[1], (FREE, NONE)),
    "one of several results": (lambda a, b: {"x": stop(a), "y": b}, (STOPPED, FREE)),
    "printed only": (lambda a, b: (jax.debug.print("{}", b), a)[1], (FREE, NONE)),
    "jit": (jax.jit(lambda a, b, c: a * stop(b)), (FREE, STOPPED, NONE)),
    "jit, one result": (lambda a, b: jax.jit(lambda *x: x)(a, b)[0], (FREE, NONE)),
    "checkpoint": (jax.checkpoint(lambda a, b: a * stop(b)), (FREE, STOPPED)),
    "custom_jvp": (with_jvp, (FREE, STOPPED)),
    "custom_vjp": (with_vjp, (FREE, STOPPED)),
    "vmap": (jax.vmap(lambda a, b: a * stop(b)), (FREE, STOPPED)),
    "shard_map": (sharded, (FREE, STOPPED)),
    "scan, constants": (
        lambda a, b, c: lax.scan(lambda h, _: (h * stop(b), c), a, None, 3)[0],
        (FREE, STOPPED, NONE),
    ),
    "scan, layers": (layers, (FREE, FREE, STOPPED)),
    "scan, handed on": (scanned(lambda a, b, c: (a + b, b + c, c)), (FREE,) * 3),
    "scan, handed on stopped": (
        scanned(lambda a, b, c: (a + b, b + stop(c), c)),
        (FREE, FREE, STOPPED),
    ),
    "scan, carried for itself": (scanned(lambda a, b: (a + 1, b)), (FREE, NONE)),
    "scan, every turn stopped": (
        scanned(lambda a, b: (stop(a) + 1, b)),
        (STOPPED, NONE),
    ),
    "scan without a turn": (scanned(lambda a, b: (stop(a), b), 0), (FREE, NONE)),
    "while": (
        lambda a, b, c: lax.while_loop(
            lambda h: h[0].sum() < stop(b).sum(), lambda h: (h[0] + c, h[1]), (a, b)
        )[0],
        (FREE, STOPPED, FREE),
    ),
    "while, ended by another": (
        lambda a, b: lax.while_loop(
            lambda h: h[1].sum() < 9, lambda h: (h[0] + 1, stop(h[1]) + 1), (a, b)
        )[0],
        (FREE, BOTH),
    ),
    "fori": (
        lambda a, b: lax.fori_loop(0, 3, lambda i, h: h + stop(b), a),
        (FREE, STOPPED),
    ),
    "cond": (
        lambda a, b, c: lax.cond(
            stop(a).sum() > 0, lambda: b + stop(c), lambda: stop(c)
        ),
        (STOPPED, FREE, STOPPED),
    ),
    "cond, one branch": (
        lambda a, b: lax.cond(a.sum() > 0, lambda: b, lambda: stop(b)),
        (FREE, BOTH),
    ),
    "an inner gradient": (
        lambda a, b: jax.grad(lambda a: jnp.sum(a**3 * stop(b)))(a),
        (FREE, STOPPED),
    ),
    "softmax": (lambda a: jax.nn.softmax(a), (FREE,)),
    "log_softmax": (lambda a: jax.nn.log_softmax(a), (FREE,)),
    "logsumexp": (lambda a: jax.nn.logsumexp(a), (FREE,)),
    "a stopped maximum": (lambda a, b: b - stop(jnp.max(a)), (STOPPED, FREE)),
    "memory": (written, (FREE, STOPPED, NONE)),
    "an unknown function": (
        lambda a, b: lax.custom_linear_solve(
            lambda x: x * a, b, lambda f, b: b / stop(a), symmetric=True
        ),
        (FREE, FREE),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_how_each_argument_reaches_the_result(case):
    function, expected = case
    assert reaches(jax.make_jaxpr(function)(*[V] * len(expected))) == [*expected]


@pytest.mark.slow
def test_what_is_stopped_or_unused_has_no_derivative():
    """(The converse does not hold: a rounded number has none, and is learnt from.)"""
    for name, (function, expected) in CASES.items():
        if name in ("while", "while, ended by another", "memory"):
            continue  # JAX has no reverse derivative of these
        args = [jnp.linspace(0.5, 1, 4) + i for i in range(len(expected))]
        total = lambda args, f=function: sum(
            jnp.sum(x) for x in jax.tree.leaves(f(*args))
        )
        for grad, reach in zip(jax.grad(total)(args), expected, strict=True):
            if not reach & FREE:
                assert not np.any(grad), name


def test_a_deep_stack_takes_no_time_to_speak_of():
    """Each function within is looked at once for each way it is used, not each call."""

    def double(f):
        return jax.jit(lambda x: f(f(x)))

    f = jnp.sin
    for _ in range(40):  # 2^40 calls
        f = double(f)
    assert reaches(jax.make_jaxpr(f)(V)) == [FREE]

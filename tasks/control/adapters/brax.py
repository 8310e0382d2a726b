"""Brax: rigid-body physics; on a CPU the spring backend is the fastest."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from tasks.control.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    Image,
    Shape,
    box,
    capsule,
    scene,
)
from tasks.control.environment import Environment, check_name, library
from tasks.control.spaces import Box, Space


PLANE, SPHERE, ROUND = 0, 2, (2, 3, 5)  # of MuJoCo's kinds; 3: capsule, 5: cylinder
COLOURS = (GREEN, INK, ORANGE, BLUE)


def names() -> Collection[str]:
    """The environments that there are."""
    return library("brax.envs", extra="rl-brax")._envs


def make(
    name: str, *, backend: str = "spring", step_limit: int = 1000, **options: Any
) -> "Brax":
    """Make the Brax environment `name`, such as `inverted_double_pendulum`.

    Args:
        name: of the environment.
        backend: `spring`, `generalized`, `positional` or `mjx`.
        step_limit: steps after which an episode is truncated.
        **options: passed on to the environment's class.
    """
    envs = library("brax.envs", extra="rl-brax")
    check_name(name, envs._envs, library="brax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a paragraph on who maintains Brax
        environment = envs.get_environment(name, backend=backend, **options)
    # Brax's own `observation_size` computes a reset, operation by operation.
    start = jax.eval_shape(environment.reset, jax.random.key(0))
    return Brax(
        name=f"brax/{name}",
        action_space=Box.of(-1, 1, size=environment.action_size),
        observation_shape=start.obs.shape,
        step_limit=step_limit,
        environment=environment,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brax(Environment):
    """A Brax environment without the wrappers that reset it and count its steps."""

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        state = self._jitted[0](key)
        return state, state.obs

    @functools.cached_property
    def _jitted(self) -> tuple[Callable, Callable]:
        """Its reset and its step, which take seconds to trace: once, that is."""
        return jax.jit(self.environment.reset), jax.jit(self.environment.step)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        del key  # Brax draws from a key in its state, if at all
        state = self._jitted[1](state, action)
        return state, state.obs, state.reward, state.done.astype(bool)

    def render(self, state: Any) -> Image:
        """Draw the bodies seen from the side, in the plane of x and z."""
        system, places = self.environment.sys, state.pipeline_state.x
        # Body 0 is the world, which rests.
        positions = np.concatenate([np.zeros((1, 3)), places.pos])
        turns = np.concatenate([[(1.0, 0, 0, 0)], places.rot])
        body, kind = np.asarray(system.geom_bodyid), np.asarray(system.geom_type)
        shapes = []
        for i in np.flatnonzero(np.isin(kind, ROUND)):
            radius, half = np.asarray(system.geom_size)[i, :2]
            along = np.array([0, 0, 0 if kind[i] == SPHERE else half])
            along = _rotation(system.geom_quat[i]) @ along
            ends = np.stack([along, -along]) + system.geom_pos[i]
            ends = ends @ _rotation(turns[body[i]]).T + positions[body[i]]
            colour = COLOURS[body[i] % len(COLOURS)] if body[i] else GREY
            shape = Shape(capsule(ends[0, ::2], ends[1, ::2], radius), colour)
            # Rounded, so that what lies in one plane keeps its order.
            depth = -round(float(positions[body[i], 1]), 2)
            shapes.append((body[i] > 0, depth, shape))
        shapes = [shape for *_, shape in sorted(shapes, key=lambda one: one[:2])]
        planes = np.asarray(system.geom_pos)[kind == PLANE, 2]
        floor = planes.min(initial=0)
        x = float(places.pos[0, 0])  # the camera goes with the first body
        near = range(math.floor(x) - 3, math.floor(x) + 5)
        marks = [Shape(box((at, floor - 0.1), 0.05, 0.2), "white") for at in near]
        ground = Shape(box((x, floor - 0.5), 9, 1), GREY)
        return scene([ground, *marks, *shapes], (x - 2.2, x + 2.2), (-0.4, 2.2))


def _rotation(quaternion: ArrayLike) -> Float[np.ndarray, "3 3"]:
    """The matrix of a unit quaternion, its real part first."""
    w, x, y, z = np.asarray(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross

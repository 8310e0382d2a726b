"""Pictures of MuJoCo's bodies, seen from the side, in the plane of x and z."""

import math
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

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


PLANE, SPHERE, CAPSULE, CYLINDER, BOX = 0, 2, 3, 5, 6  # of MuJoCo's kinds
DRAWN = (SPHERE, CAPSULE, CYLINDER, BOX)
COLOURS = (GREEN, INK, ORANGE, BLUE)


def side_view(
    model: Any, positions: Float[Any, "bodies 3"], turns: Float[Any, "bodies 4"]
) -> Image:
    """Draws what is round or a box; the camera goes with the first body.

    Args:
        model: says of each geometry its kind, size, body, and place there.
        positions: of the bodies, of which the first is the world, which rests.
        turns: as quaternions, their real part first.
    """
    positions, turns = np.asarray(positions), np.asarray(turns)
    body, kind = np.asarray(model.geom_bodyid), np.asarray(model.geom_type)
    shapes = []
    for i in np.flatnonzero(np.isin(kind, DRAWN)):
        own = _outline(int(kind[i]), np.asarray(model.geom_size)[i])
        ends = own @ _rotation(model.geom_quat[i]).T + model.geom_pos[i]
        ends = (ends @ _rotation(turns[body[i]]).T + positions[body[i]])[:, ::2]
        if kind[i] != BOX:
            ends = capsule(*ends, radius=float(model.geom_size[i][0]))
        colour = COLOURS[body[i] % len(COLOURS)] if body[i] else GREY
        # Rounded, so that what lies in one plane keeps its order.
        depth = -round(float(positions[body[i], 1]), 2)
        shapes.append((body[i] > 0, depth, Shape(ends, colour)))
    shapes = [shape for *_, shape in sorted(shapes, key=lambda one: one[:2])]
    planes = np.asarray(model.geom_pos)[kind == PLANE, 2]
    floor = planes.min(initial=0)
    x = float(positions[1, 0])
    near = range(math.floor(x) - 3, math.floor(x) + 5)
    marks = [Shape(box((at, floor - 0.1), 0.05, 0.2), "white") for at in near]
    ground = Shape(box((x, floor - 0.5), 9, 1), GREY)
    return scene([ground, *marks, *shapes], (x - 2.2, x + 2.2), (-0.4, 2.2))


def _outline(kind: int, size: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "points 3"]:
    """The corners of a box's middle; of what is round, the ends of its axis."""
    if kind == BOX:
        corners = np.array([(-1, 0, -1), (1, 0, -1), (1, 0, 1), (-1, 0, 1)])
        return corners * size
    along = np.array([0, 0, 0 if kind == SPHERE else size[1]])
    return np.stack([along, -along])


def _rotation(quaternion: ArrayLike) -> Float[np.ndarray, "3 3"]:
    """The matrix of a unit quaternion, its real part first."""
    w, x, y, z = np.asarray(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross

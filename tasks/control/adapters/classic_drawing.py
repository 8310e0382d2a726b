"""Pictures of gymnax's classic control problems, which it draws by way of gymnasium."""

from collections.abc import Callable
from typing import Any

import numpy as np

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


def cart_pole(state: Any, parameters: Any) -> Image:
    """A cart on its track."""
    length, top = 2 * parameters.length, (state.x, 0.3)
    tip = (state.x + length * np.sin(state.theta), 0.3 + length * np.cos(state.theta))
    edge = parameters.x_threshold
    shapes = [
        Shape(box((0, 0), 2 * edge, 0.03), GREY),
        Shape(box((state.x, 0.15), 0.6, 0.3)),
        Shape(capsule(top, tip, 0.05), ORANGE),
        Shape(capsule(top, top, 0.05), "white"),
    ]
    return scene(shapes, (-edge - 0.4, edge + 0.4), (-0.5, 1.7))


def pendulum(state: Any, parameters: Any) -> Image:
    """A rod; the disc about its hinge is as large as the torque."""
    length = parameters.l
    tip = (-length * np.sin(state.theta), length * np.cos(state.theta))
    shapes = [
        Shape(capsule((0, 0), (0, 0), 0.03 + abs(float(state.last_u)) / 5), GREY),
        Shape(capsule((0, 0), tip, 0.09), ORANGE),
        Shape(capsule((0, 0), (0, 0), 0.04)),
    ]
    return scene(shapes, (-1.3 * length, 1.3 * length), (-1.3 * length, 1.3 * length))


def acrobot(state: Any, parameters: Any) -> Image:
    """Two rods, and the line to reach."""
    first, second = state.joint_angle1, state.joint_angle1 + state.joint_angle2
    hang = lambda angle, length: length * np.array([np.sin(angle), -np.cos(angle)])
    elbow = hang(first, parameters.link_length_1)
    tip = elbow + hang(second, parameters.link_length_2)
    shapes = [
        Shape(box((0, 1), 4.4, 0.03), GREEN),
        Shape(capsule((0, 0), elbow, 0.09), BLUE),
        Shape(capsule(elbow, tip, 0.09), ORANGE),
        Shape(capsule((0, 0), (0, 0), 0.05), "white"),
        Shape(capsule(elbow, elbow, 0.05), "white"),
    ]
    return scene(shapes, (-2.2, 2.2), (-2.2, 2.2))


def mountain_car(state: Any, parameters: Any) -> Image:
    """A valley with a flag on one side."""
    height = lambda x: 0.45 * np.sin(3 * x) + 0.55
    low, high = parameters.min_position, parameters.max_position
    x = np.linspace(low, high, 60)
    hill = np.concatenate([np.stack([x, height(x)], 1), [(high, 0), (low, 0)]])
    flag = (parameters.goal_position, height(parameters.goal_position))
    car = (state.position, height(state.position) + 0.05)
    shapes = [
        Shape(hill, GREY),
        Shape(box((flag[0], flag[1] + 0.1), 0.01, 0.2), INK),
        Shape(box((flag[0] + 0.045, flag[1] + 0.17), 0.08, 0.06), GREEN),
        Shape(capsule(car, car, 0.05), ORANGE),
    ]
    return scene(shapes, (low, high), (0, 1.25))


CLASSIC: dict[str, Callable[[Any, Any], Image]] = {
    "CartPole-v1": cart_pole,
    "Pendulum-v1": pendulum,
    "Acrobot-v1": acrobot,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": mountain_car,
}

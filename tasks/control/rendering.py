"""One episode, step by step, for those who want to see it."""

import functools

import jax
from jaxtyping import PRNGKeyArray, PyTree

from eggroll import UserError
from eggroll.runs import Frame
from tasks.control.environment import Environment
from tasks.control.rollout import Policy, transition


def watch(
    environment: Environment,
    policy: Policy,
    key: PRNGKeyArray,
    *,
    memory: PyTree = (),
    step_limit: int,
) -> list[Frame]:
    """Run the first episode of `rollout` with this key, and keep all its states.

    Args:
        environment: where to act; it must be able to draw itself.
        policy: `(observation, memory, key, legal) -> (action, memory)`.
        key: decides the initial state and everything drawn later.
        memory: what the policy remembers at the start.
        step_limit: steps after which to look no more.

    Returns:
        The start and what came of every step; each is drawn when it is looked at.

    Raises:
        UserError: the environment cannot be drawn.
    """
    key = jax.random.fold_in(key, 0)
    reset = getattr(environment, "reset", None)
    if reset is None or not hasattr(environment, "render"):
        raise _cannot_be_drawn(environment)
    state, observation = jax.jit(reset)(jax.random.fold_in(key, 0))
    if environment.render(state) is None:
        raise _cannot_be_drawn(environment)
    step, total = jax.jit(transition(environment, policy)), 0.0
    frames = [_frame(environment, state, 0, total)]
    for time in range(1, step_limit + 1):
        state, observation, memory, reward, done = step(
            state, observation, memory, key, time
        )
        total += float(reward)
        frames.append(_frame(environment, state, time, total))
        if done:
            break
    return frames


def _frame(environment: Environment, state: PyTree, time: int, total: float) -> Frame:
    caption = f"step {time}   return {total:.4g}"
    return Frame(caption, functools.partial(environment.render, state))  # pyrefly: ignore[bad-argument-type]


def _cannot_be_drawn(environment: Environment) -> UserError:
    return UserError(
        f"{environment.name} cannot be drawn. These can: brax, craftax, jumanji, "
        "mujoco_playground, navix and pgx; of gymnax, classic control and all that "
        "observes a grid, such as MinAtar; of jaxmarl, MPE; and your own, with a "
        "method `render`: docs/own-environment.md"
    )

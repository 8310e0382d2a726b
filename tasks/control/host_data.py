"""What members read and carry, one step of their environments after the other."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tasks.control.normalisation import Moments


class HostData(NamedTuple):
    """What the members read at one step of their environments.

    Attributes:
        observed: moments of the observations of all generations before.
        key: decides the episodes if all members shall have the same.
        step_limit: steps after which an episode is truncated.
        time: steps made so far.
        observation: of each episode, a row a member.
        alive: whether the episode goes on.
        legal: which actions it allows; None: all, always.
    """

    observed: Moments
    key: PRNGKeyArray
    step_limit: Int[Array, ""]
    time: Int[Array, ""]
    observation: Float[Array, "1 episodes ..."]
    alive: Bool[Array, "1 episodes"]
    legal: Bool[Array, "1 episodes actions"] | None


class Carry(NamedTuple):
    """What a member carries through its episodes; each generation begins anew.

    Attributes:
        number: of the member, if each shall have its own episodes; else ().
        memory: of its policy, one an episode.
        observed: moments of what it has seen, if they are wanted; else ().
    """

    number: PyTree
    memory: PyTree
    observed: PyTree

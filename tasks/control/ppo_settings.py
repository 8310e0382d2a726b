"""The settings of proximal policy optimisation."""

import dataclasses

from eggroll import UserError
from eggroll.config import Count, NonNegative, Positive, Share, check_bounds


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """What PPO needs to know besides the optimiser.

    Attributes:
        workers: environments side by side.
        steps: steps of each worker between updates.
        epochs: times the experience is gone through.
        minibatches: parts that it is cut into; they divide workers x steps.
        discount: per step.
        trace: lambda of the advantage estimation.
        clip: bound on the change of an action's probability.
        value_clip: bound on the change of a value, in root mean squares of discounted
            returns; None: none.
        normalise_rewards: whether the critic learns from rewards in the same unit, of
            which the running estimate is part of the run. Fitness is as it is.
        entropy: weight of the entropy bonus.
        value: weight of the value loss.
        gradient_norm: gradients are clipped to this norm.
    """

    workers: Count = 64
    steps: Count = 128
    epochs: Count = 4
    minibatches: Count = 16
    discount: Share = 0.99
    trace: Share = 0.95
    clip: Positive = 0.2
    value_clip: Positive | None = 0.2
    normalise_rewards: bool = True
    entropy: float = 0.0
    value: NonNegative = 0.5
    gradient_norm: Positive = 0.5

    def __post_init__(self):
        check_bounds(self, "ppo")
        if self.workers * self.steps % self.minibatches:
            raise UserError(
                f"minibatches must divide workers x steps = {self.workers} x "
                f"{self.steps}, got {self.minibatches}."
            )

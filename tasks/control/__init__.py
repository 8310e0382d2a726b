"""Reinforcement learning: whole episodes, their return as fitness."""

from tasks.control.environment import (
    Environment as Environment,
    make as make,
)
from tasks.control.policy import ActionHead as ActionHead
from tasks.control.rollout import (
    Episodes as Episodes,
    rollout as rollout,
)
from tasks.control.spaces import (
    Box as Box,
    Discrete as Discrete,
    MultiDiscrete as MultiDiscrete,
    Space as Space,
)
from tasks.control.task import Control as Control

"""Reinforcement learning: whole episodes, their return as fitness."""

from tasks.control.action_head import ActionHead as ActionHead
from tasks.control.adapters import make as make
from tasks.control.environment import Environment as Environment
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

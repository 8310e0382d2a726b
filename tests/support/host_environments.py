"""Gymnasium environments with something wrong; workers import this by its name."""

import os
from typing import ClassVar

import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    """Walk on the integers; the reward is the place. `trouble` comes at place 10.

    An observation is NaN there (`blind`), at the reset (`blind at first`), or there as
    the episode ends (`blind at last`).
    """

    action_space = gymnasium.spaces.Discrete(2, start=-1)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def __init__(self, trouble: str = "none"):
        self.trouble = trouble
        if trouble == "tuple":
            one = gymnasium.spaces.Discrete(2)
            self.action_space = gymnasium.spaces.Tuple((one, one))
        if trouble == "still":
            self.action_space = gymnasium.spaces.Box(0.0, 0.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.integers(-20, 20)
        seen = self._see()
        return seen * np.nan if self.trouble == "blind at first" else seen, {}

    def step(self, action):
        assert action in self.action_space
        self.place += 2 * action + 1
        reward, seen, terminated = float(self.place), self._see(), False
        if self.place >= 10:
            match self.trouble:
                case "nan":
                    reward = np.nan
                case "blind":
                    seen = seen * np.nan
                case "blind at last":
                    seen, terminated = seen * np.nan, True
                case "raise":
                    raise RuntimeError("the wind is too strong")
                case "die":
                    os._exit(3)
        return seen, reward, terminated, False, {}

    def _see(self):
        return np.array([self.place], np.float64)


class Locks(gymnasium.Env):
    """Six locks in two rows; the reward says how many wheels are at their number.

    They stand at the numbers of `right`. `kind` says what an action is. The picture is
    as bright as the time is late.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 4}
    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,))

    def __init__(self, kind: str = "discrete", render_mode: str | None = None):
        self.render_mode, spaces = render_mode, gymnasium.spaces
        if kind == "binary":
            self.action_space = spaces.MultiBinary((2, 3))
            self.right = np.array([[1, 0, 0], [0, 1, 1]])
        else:
            sizes, start = np.array([[2, 3, 4], [2, 3, 4]]), np.array([[1, 0, -1]] * 2)
            self.action_space = spaces.MultiDiscrete(sizes, start=start)
            self.right = np.array([[1, 2, 0], [2, 1, -1]])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        assert action in self.action_space
        self.time += 1
        reward = float(np.sum(action == self.right))
        return np.ones(1, np.float32), reward, False, False, {}

    def render(self):
        return np.full((20, 30, 3), 50 * self.time, np.uint8)


class Tally(gymnasium.Env):
    """Counts right actions, which are 0 and 1 in turns; ends at the third one.

    There is no chance in it. The reward is the count; NaN is seen after `blind` steps.
    """

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, blind: int = 99):
        self.blind = blind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = self.count = 0
        return self._see(), {}

    def step(self, action):
        self.count += int(action == self.time % 2)
        self.time += 1
        return self._see(), float(self.count), self.count == 3, False, {}

    def _see(self):
        shown = np.nan if self.time == self.blind else self.time
        return np.array([shown, self.count], np.float32)


class Gates(gymnasium.Env):
    """Two gates in turns, one of which is open at a time, for 1 each; else -9.

    `walls` says when none is. Choices are made alone, or (`pair`) with a second one
    of three, of which at time t the one called t mod 3 is right.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, pair: bool = False, walls: int = 99, flags: int = 2):
        self.pair, self.walls, self.flags = pair, walls, flags
        spaces = gymnasium.spaces
        self.action_space = spaces.MultiDiscrete([2, 3]) if pair else spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = int(self.np_random.integers(0, 3))
        return self._see()

    def step(self, action):
        reward = 1.0 if np.all(action == self._right()) else -9.0
        self.time += 1
        seen, info = self._see()
        return seen, reward, False, False, info

    def _right(self):
        both = self.time % 2, self.time % 3
        return both if self.pair else both[0]

    def _see(self):
        first = (np.arange(self.flags) == self.time % 2) & (self.time < self.walls)
        second = np.arange(3) == self.time % 3
        mask = (first.astype(np.int8), second.astype(np.int8))
        info = {"action_mask": mask if self.pair else mask[0]}
        return np.array([self.time], np.float32), info


gymnasium.register("Gates-v0", entry_point=Gates, max_episode_steps=5)
gymnasium.register("Tally-v0", entry_point=Tally, max_episode_steps=5)
gymnasium.register("Locks-v0", entry_point=Locks, max_episode_steps=3)
gymnasium.register("Walk-v0", entry_point=Walk, max_episode_steps=7)
gymnasium.register("Endless-v0", entry_point=Walk)

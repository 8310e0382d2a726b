"""Gymnasium environments with something wrong; workers import this by its name."""

import os

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


gymnasium.register("Walk-v0", entry_point=Walk, max_episode_steps=7)
gymnasium.register("Endless-v0", entry_point=Walk)

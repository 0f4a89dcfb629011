"""Actions as a head writes them. Numpy only."""

from __future__ import annotations

import dataclasses

import numpy as np

from vla.contract import Space


@dataclasses.dataclass(frozen=True)
class ActionScaler:
    """Actions [..., A] as shares [..., F] of their limits, which are -1 and 1, without the constant dimensions; and back.

    What is outside of the limits is clipped, both ways; constant dimensions come back as their constants.
    """

    space: Space

    @property
    def free(self) -> list[int]:
        """The dimensions that vary."""
        return [place for place, constant in enumerate(self.space.constant) if constant is None]

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        low, high = self._limits
        return np.clip(2 * (np.asarray(actions)[..., self.free] - low) / (high - low) - 1, -1, 1)

    def inverse(self, shares: np.ndarray) -> np.ndarray:
        low, high = self._limits
        whole = np.array([0.0 if constant is None else constant for constant in self.space.constant])
        actions = np.broadcast_to(whole, (*np.shape(shares)[:-1], len(whole))).copy()
        actions[..., self.free] = low + (np.clip(shares, -1, 1) + 1) / 2 * (high - low)
        return actions

    @property
    def _limits(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.space.low)[self.free], np.array(self.space.high)[self.free]

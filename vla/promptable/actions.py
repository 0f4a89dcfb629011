"""Scaling of actions for a head. NumPy only."""

from __future__ import annotations

import dataclasses

import numpy as np

from vla.space import Space


@dataclasses.dataclass(frozen=True)
class ActionScaler:
    """Scales actions [..., A] to [..., F] within [-1, 1], the limits of the space, and back. Constant dimensions are left out.

    Values outside the limits are clipped in both directions. The inverse fills in the constants.
    """

    space: Space

    @property
    def free(self) -> list[int]:
        """Indices of the dimensions that are not constant."""
        return [index for index, constant in enumerate(self.space.constant) if constant is None]

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Scales actions [..., A] to [..., F]."""
        low, high = self._limits
        return np.clip(2 * (np.asarray(actions)[..., self.free] - low) / (high - low) - 1, -1, 1)

    def inverse(self, scaled: np.ndarray) -> np.ndarray:
        """Returns the actions [..., A] of scaled ones [..., F]."""
        low, high = self._limits
        constants = np.array([0.0 if constant is None else constant for constant in self.space.constant])
        actions = np.broadcast_to(constants, (*np.shape(scaled)[:-1], len(constants))).copy()
        actions[..., self.free] = low + (np.clip(scaled, -1, 1) + 1) / 2 * (high - low)
        return actions

    @property
    def _limits(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.space.low)[self.free], np.array(self.space.high)[self.free]

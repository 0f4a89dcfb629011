"""Checks of a policy's actions before the robot executes them."""

import dataclasses
from typing import Any, Dict, Optional, Sequence, Union

import numpy as np

from .chunks import wrapped


class Refused(ValueError):
    """The action must not be executed."""


@dataclasses.dataclass
class Limits:
    """The limits of the robot's actions, per dimension.

    Attributes:
        low, high: [A] limits to which an action is clamped.
        rate: [A] or one number, the largest change from one action to the next; None sets no limit. Use infinity for a gripper.
        angles: dimensions that are absolute angles in radians. They change the short way, across the jump from pi to -pi.
    """

    low: np.ndarray
    high: np.ndarray
    rate: Optional[np.ndarray] = None
    angles: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.low, self.high = np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)
        if self.low.shape != self.high.shape or self.low.ndim != 1 or not (self.low <= self.high).all():
            raise ValueError("give a low and a high limit for each dimension, low at most high")
        if self.rate is not None:
            self.rate = np.broadcast_to(np.asarray(self.rate, np.float64), self.low.shape)
            if not (self.rate > 0).all():
                raise ValueError("rates must be above 0")

    @classmethod
    def of(
        cls,
        metadata: Dict[str, Any],
        embodiment: Optional[str] = None,
        rate: Union[None, float, Sequence[float], np.ndarray] = None,
    ) -> "Limits":
        """Returns the limits in the contract that `vla serve` sends on connecting."""
        embodiments = metadata["contract"]["embodiments"]
        space = embodiments[embodiment or next(iter(embodiments))]["action"]
        return cls(space["low"], space["high"], rate)


class Guard:
    """Refuses NaN and infinity, clamps actions to the limits, and limits their rate of change.

    Attributes:
        clamped: number of actions that were changed. If it is nearly all of them, the policy or its units are wrong.
    """

    def __init__(self, limits: Limits):
        self.limits, self.clamped = limits, 0
        self._last = None  # type: Optional[np.ndarray]

    def reset(self) -> None:
        self._last = None

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Returns the action that may be executed.

        Raises:
            Refused: the action has NaN, infinity or the wrong number of dimensions.
        """
        action = np.array(action, np.float64)
        if action.shape != self.limits.low.shape:
            raise Refused("{} dimensions, the robot has {}".format(list(action.shape), len(self.limits.low)))
        if not np.isfinite(action).all():
            raise Refused("dimension {} is {}".format(*next((i, a) for i, a in enumerate(action) if not np.isfinite(a))))
        safe = np.clip(action, self.limits.low, self.limits.high)
        if self._last is not None and self.limits.rate is not None:
            safe = self._slowed(safe, self._last, self.limits.rate)
        self.clamped += int(not np.array_equal(safe, action))
        self._last = safe
        return safe

    def _slowed(self, action: np.ndarray, last: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """Returns the action with changes of at most the rates."""
        slowed, angles = np.clip(action, last - rate, last + rate), list(self.limits.angles)
        change = wrapped(action - last)
        turned = wrapped(last + np.clip(change, -rate, rate))
        slowed[angles] = np.where(np.abs(change) > rate, turned, action)[angles]
        # Where the limits leave a gap at pi, it is not crossed.
        return np.clip(slowed, self.limits.low, self.limits.high)

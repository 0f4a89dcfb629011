"""Checks of a policy's actions before the robot executes them."""

import dataclasses
from typing import Any, Dict, Mapping, Optional, Sequence, Union

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
        names: names of the dimensions, for errors.
    """

    low: np.ndarray
    high: np.ndarray
    rate: Optional[np.ndarray] = None
    angles: Sequence[int] = ()
    names: Sequence[str] = ()

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
        rate: Union[None, float, Sequence[float], np.ndarray, Mapping[str, float]] = None,
    ) -> "Limits":
        """Returns the limits in the contract that `vla serve` sends on connecting.

        Args:
            metadata: `Connection.metadata`.
            embodiment: name of the robot; the contract's first by default.
            rate: the largest change from one action to the next, in the action's units: one number for all dimensions except
                grippers, a number per dimension, or {name: number}, which leaves other dimensions unlimited. A gripper is a
                dimension that was only open or closed in the data, or has "grip" in its name.

        Raises:
            ValueError: the robot has no dimension of a name in `rate`.
        """
        embodiments = metadata["contract"]["embodiments"]
        space = embodiments[embodiment or next(iter(embodiments))]["action"]
        names = list(space["names"])
        if isinstance(rate, Mapping):
            unknown = [name for name in rate if name not in names]
            if unknown:
                raise ValueError("no dimension {}; the robot has {}".format(", ".join(unknown), ", ".join(names)))
            rate = [rate.get(name, np.inf) for name in names]
        elif rate is not None and np.ndim(rate) == 0:
            two_valued = space.get("binary") or [None] * len(names)
            grips = [pair is not None or "grip" in name.lower() for name, pair in zip(names, two_valued)]
            rate = np.where(grips, np.inf, rate)
        return cls(space["low"], space["high"], rate, names=names)


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
            names = self.limits.names or range(len(action))
            raise Refused("dimension {} is {}".format(*next((n, a) for n, a in zip(names, action) if not np.isfinite(a))))
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

"""The control loop: one action per period; without an action, the robot holds its position."""

import threading
import time
from typing import Any, Callable, Dict, Optional, Union

import numpy as np

from .chunks import RecedingHorizon, TemporalEnsemble
from .connection import Unreachable
from .safety import Guard, Refused


class Robot:
    """The interface that `drive` needs; subclass it."""

    def observe(self) -> Dict[str, Any]:
        """Returns the observation with the keys that the server expects."""
        raise NotImplementedError

    def act(self, action: np.ndarray) -> None:
        """Starts one action [A] and returns at once."""
        raise NotImplementedError

    def hold(self) -> None:
        """Holds the position. Called repeatedly and also from another thread, so it must be fast and safe to repeat."""
        raise NotImplementedError


class Watchdog:
    """Calls `hold` repeatedly once `feed` has not been called for `seconds`, until the next `feed`.

    It runs in a thread of its own, because the control loop may be stuck in a camera driver.
    """

    def __init__(self, hold: Callable[[], None], seconds: float):
        self.hold, self.seconds, self.held = hold, seconds, 0
        self._fed_at, self._stopped = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def feed(self) -> None:
        self._fed_at = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.feed()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self.seconds / 4):
            if time.monotonic() - self._fed_at > self.seconds:
                self.held += 1
                self.hold()


def drive(
    robot: Robot,
    policy: Union[RecedingHorizon, TemporalEnsemble],
    guard: Guard,
    hz: float,
    steps: int,
    watchdog: float = 0.5,
    stop: Optional[Callable[[], bool]] = None,
    on_trouble: Optional[Callable[[Exception], None]] = None,
) -> int:
    """Runs the control loop. The robot holds at the end, whatever ends the loop.

    Args:
        policy: gives one action per step.
        hz: actions per second. A late action is executed at once and starts the next period; lost time is not made up.
        steps: actions to execute.
        watchdog: seconds without an action after which the robot holds its position, while the client keeps trying.
        stop: called before each step; True ends the loop.
        on_trouble: called with the error when a step has no action: no answer in time, or an action with NaN.

    Returns:
        The number of actions executed.

    Raises:
        ServerError: the server refuses the observation, so trying again would not help.
    """
    executed, due = 0, time.monotonic()
    try:
        with Watchdog(robot.hold, watchdog) as timer:
            while executed < steps and not (stop and stop()):
                try:
                    action = guard(policy.step(robot.observe() if policy.needs_observation else {}))
                except (Unreachable, Refused) as error:
                    robot.hold()
                    # Actions from before the error are outdated.
                    policy.reset()
                    guard.reset()
                    if on_trouble:
                        on_trouble(error)
                    # At most one attempt per period.
                    time.sleep(1.0 / hz)
                    continue
                robot.act(action)
                timer.feed()
                executed += 1
                due = max(due + 1.0 / hz, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
    finally:
        robot.hold()
    return executed

"""The control loop: one action per period, and the robot holds its position whenever there is none."""

import threading
import time
from typing import Any, Callable, Dict, Optional

import numpy as np

from .connection import Unreachable
from .safety import Guard, Refused


class Robot:
    """What `drive` needs of a robot; subclass it."""

    def observe(self) -> Dict[str, Any]:
        """The observation, under the keys that the server expects."""
        raise NotImplementedError

    def act(self, action: np.ndarray) -> None:
        """Carries out one action [A]; returns at once."""
        raise NotImplementedError

    def hold(self) -> None:
        """Stays where it is. Called again and again, from another thread too, so it must be quick and safe to repeat."""
        raise NotImplementedError


class Watchdog:
    """Calls `hold` when `feed` has not been called for `seconds`, and goes on calling it until it is fed again.

    A thread of its own: the loop may be stuck in a camera driver.
    """

    def __init__(self, hold: Callable[[], None], seconds: float):
        self.hold, self.seconds, self.held = hold, seconds, 0
        self._fed, self._end = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def feed(self) -> None:
        self._fed = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.feed()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self.seconds / 4):
            if time.monotonic() - self._fed > self.seconds:
                self.held += 1
                self.hold()


def drive(
    robot: Robot,
    policy: Any,
    guard: Guard,
    hz: float,
    steps: int,
    watchdog: float = 0.5,
    stop: Optional[Callable[[], bool]] = None,
    on_trouble: Optional[Callable[[Exception], None]] = None,
) -> int:
    """Runs the loop; the robot is told to hold at the end, whatever ends it.

    Args:
        policy: a `RecedingHorizon` or `TemporalEnsemble`.
        hz: actions per second. A step that comes late is carried out at once and the next period begins then: no catching up.
        watchdog: seconds without an action after which the robot holds its position, while the server is asked on.
        stop: asked before each step.
        on_trouble: told what went wrong when a step had no action: no answer in time, or an action with NaN.

    Returns:
        Actions carried out.

    Raises:
        ServerError: the server refuses these observations; that does not mend itself.
    """
    done, due = 0, time.monotonic()
    try:
        with Watchdog(robot.hold, watchdog) as dog:
            while done < steps and not (stop and stop()):
                try:
                    action = guard(policy.step(robot.observe() if policy.needs_observation else {}))
                except (Unreachable, Refused) as error:
                    robot.hold()
                    # What was planned before the trouble is stale.
                    policy.reset()
                    guard.reset()
                    if on_trouble:
                        on_trouble(error)
                    # At most one attempt per period.
                    time.sleep(1.0 / hz)
                    continue
                robot.act(action)
                dog.feed()
                done += 1
                due = max(due + 1.0 / hz, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
    finally:
        robot.hold()
    return done

"""A sequential test of two policies on the same episodes, valid at every episode: a bet against "they are equal"."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sequential:
    """The result of the test.

    Attributes:
        log10_e: [N] decimal logarithm of the e-value after each episode.
        stop: the number of episodes after which the test may stop at level alpha; None if it may not stop yet.
        p: always-valid p-value, one over the largest e-value so far.
    """

    log10_e: list[float]
    stop: int | None
    p: float


def log_e_values(differences: np.ndarray) -> np.ndarray:
    """Returns the natural logarithm of the e-value after each episode.

    Under the null hypothesis, either policy is equally likely to win an episode in which only one succeeds, whatever happened
    before. Before each such episode the capital is split between the policies: the share (k + 1) / (m + 2) is bet on the first,
    where k of m such episodes were won by it; the stake on the winner doubles, the other is lost. Under the null the capital is
    a martingale with mean 1, so by Ville's inequality it ever reaches 1/alpha with probability at most alpha. It equals the
    uniform mixture over all fixed bets, 2^m / ((m + 1)·C(m, k)): Robbins 1970 (Annals of Mathematical Statistics 41, 1397-1409);
    betting as in Waudby-Smith and Ramdas 2023 (JRSS B 86, 1-27).

    Args:
        differences: [..., N] success of the first policy minus success of the second: 1, 0 or -1, in the order of running.
    """
    won, lost = differences > 0, differences < 0
    before_won, before_lost = np.cumsum(won, -1) - won, np.cumsum(lost, -1) - lost
    share = (before_won * won + before_lost * lost + 1) / (before_won + before_lost + 2)
    gain = np.log(2 * share)
    return np.cumsum(np.where(won | lost, gain, 0.0), -1)


def sequential(differences: np.ndarray, alpha: float = 0.05) -> Sequential:
    """Runs the test on one pair of policies; differences [N] as in `log_e_values`."""
    path = log_e_values(differences)
    # The tolerance lets an e-value of exactly 1/alpha count despite rounding.
    reached = path >= -math.log(alpha) - 1e-12
    stop = int(reached.argmax()) + 1 if reached.any() else None
    largest = max(0.0, float(path.max(initial=0.0)))
    return Sequential([round(float(x), 6) for x in path / math.log(10)], stop, math.exp(-largest))

"""A test of two policies on the same episodes that may be looked at after every episode: a wager against "they are equal"."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sequential:
    """What the wager came to.

    Attributes:
        log10_e: [N], the e-value after each episode as a power of ten.
        stop: the number of episodes after which the test may stop at level alpha; None where it may not yet.
        p: always-valid p-value, one over the largest e-value so far.
    """

    log10_e: list[float]
    stop: int | None
    p: float


def log_e_values(differences: np.ndarray) -> np.ndarray:
    """Natural logarithm of the e-value after each episode.

    Under the null hypothesis an episode in which only one policy succeeds is as likely to be won by either, whatever came
    before. Before each such episode a stake is put on the first policy with the share of them that it won, (k + 1) / (m + 2);
    the stake doubles or is lost. The capital is then a martingale with mean 1 under the null, and by Ville's inequality it ever
    reaches 1/alpha with probability at most alpha, at whatever episode one stops. It equals the mixture over all fixed bets
    with a uniform weight, 2^m / ((m + 1)·C(m, k)): Robbins 1970 (Annals of Mathematical Statistics 41, 1397-1409), betting as in
    Waudby-Smith and Ramdas 2023 (JRSS B 86, 1-27).

    Args:
        differences: [..., N], success of the first minus success of the second policy: 1, 0 or -1, in the order of running.
    """
    won, lost = differences > 0, differences < 0
    before_won, before_lost = np.cumsum(won, -1) - won, np.cumsum(lost, -1) - lost
    share = (before_won * won + before_lost * lost + 1) / (before_won + before_lost + 2)
    gain = np.log(2 * share)
    return np.cumsum(np.where(won | lost, gain, 0.0), -1)


def sequential(differences: np.ndarray, alpha: float = 0.05) -> Sequential:
    """The test on one pair of policies; differences as in `log_e_values`, [N]."""
    path = log_e_values(differences)
    # A hair of rounding must not hold back an e-value of exactly 1/alpha.
    reached = path >= -math.log(alpha) - 1e-12
    stop = int(reached.argmax()) + 1 if reached.any() else None
    largest = max(0.0, float(path.max(initial=0.0)))
    return Sequential([round(float(x), 6) for x in path / math.log(10)], stop, math.exp(-largest))

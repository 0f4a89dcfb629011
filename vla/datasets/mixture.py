"""Mixtures of sources: sample t is a function of (seed, t) alone.

Batch b of B samples (over all ranks) is samples b * B to (b + 1) * B - 1, for any number of ranks and loader workers. Rank r of W
takes rows r, r + W, r + 2W … of it. A run resumes at the next t.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vla.datasets.sources import Source, read
from vla.errors import Unreadable, UserError

PERIOD = 1024
ROBOT_SHARES = {"rt2-pali-x": 0.5, "rt2-palm-e": 0.66}
"""RT-2's shares of robot samples in co-fine-tuning (Brohan et al. 2023, appendix B)."""


def weigh(sources: Mapping[str, Source], robot_share: float | str | None = None, temperature: float = 1.0) -> dict[str, float]:
    """Computes the sampling weights of sources: weight ** (1 / temperature), then rescaled to the robot share.

    Args:
        sources: the sources by name.
        robot_share: share of the samples that all robot sources have together, or a key of ROBOT_SHARES. The weights then
            divide it among the robot sources, and the rest among the question sources. None: the weights alone count.
        temperature: above 0; above 1 it evens the weights out.

    Raises:
        UserError: the share is outside 0 to 1 or there is no source of a kind that has one; the temperature is not positive.
    """
    if not temperature > 0:
        raise UserError(f"temperature {temperature}", "mixture", "give a number above 0; 1 leaves the weights unchanged")
    share = ROBOT_SHARES.get(robot_share) if isinstance(robot_share, str) else robot_share
    weights = {
        name: source.weight ** (1 / temperature) if source.weight > 0 else source.weight for name, source in sources.items()
    }
    if robot_share is None:
        return weights
    if share is None or not 0 <= share <= 1:
        raise UserError(
            f"robot_share {robot_share!r}", "mixture", f"give a share from 0 to 1, or one of {', '.join(ROBOT_SHARES)}"
        )
    parts = {"robot": share, "questions": 1 - share}
    totals = {kind: sum(w for name, w in weights.items() if sources[name].kind == kind) for kind in parts}
    absent = [kind for kind, part in parts.items() if part and not totals[kind]]
    if absent:
        raise UserError(
            f"robot_share {robot_share} but no source of kind {absent[0]}", "mixture", "add one or leave the share out"
        )
    return {name: parts[sources[name].kind] * w / (totals[sources[name].kind] or 1) for name, w in weights.items()}


@dataclasses.dataclass(frozen=True)
class Share:
    """How much was drawn from one source.

    Attributes:
        share: its share of the samples drawn. Warm-up samples and the whole slots of a period make it differ from `wanted`.
        wanted: the share that its weight asks for.
        count: samples drawn.
        epochs: passes through the source.
    """

    share: float
    wanted: float
    count: int
    epochs: float


class Mixture:
    """Draws from sources in proportion to their weights, without repeats within an epoch of a source.

    A pattern of 1,024 slots, shuffled by the seed, assigns a source to every sample. The n-th draw from a source with N samples
    is entry n % N of a permutation for its epoch n // N. The choice among several questions and the augmentation use a generator
    seeded with (seed, t).

    Sources with `warmup_samples` come first, one after the other, each alone for that many samples.

    Args:
        sources: the sources by name, each with its weight.
        seed: not negative.
        epoch_length: length that `len` reports, for progress and schedules; t may exceed it.
        weights: weights by name that replace the sources' own (see `weigh`).

    Raises:
        UserError: there are no sources, a weight or the seed is negative, or a weight is too small for a slot.
    """

    def __init__(
        self, sources: dict[str, Source], seed: int = 0, epoch_length: int = 10_000, weights: dict[str, float] | None = None
    ):
        if seed < 0 or epoch_length < 1:
            raise UserError(
                f"seed {seed}, epoch length {epoch_length}", "mixture", "give a seed of at least 0 and a length of at least 1"
            )
        self.sources, self.seed, self.epoch_length = sources, seed, epoch_length
        self._names = list(sources)
        # Seeded by name, not by position: adding a source does not change the order of the others.
        self._orders = {name: source.order((seed, zlib.crc32(name.encode()))) for name, source in sources.items()}
        leading = {name: source for name, source in sources.items() if source.warmup_samples}
        self._warmups = {name: source.order((seed, zlib.crc32(f"{name} leading".encode()))) for name, source in leading.items()}
        weights = weights or {name: source.weight for name, source in sources.items()}
        self._counts = slots(weights)
        self._wanted = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        pattern = np.repeat(np.arange(len(sources)), self._counts)
        self._pattern = np.random.default_rng(seed).permutation(pattern)
        # The number of earlier slots of the same source, for each slot of the pattern.
        self._before = np.zeros(PERIOD, np.int64)
        for source in range(len(sources)):
            own = np.flatnonzero(self._pattern == source)
            self._before[own] = np.arange(len(own))

    def __len__(self) -> int:
        return self.epoch_length

    def __getitem__(self, t: int) -> tuple[str, Any]:
        return self.sample(t)

    def draw(self, t: int) -> tuple[str, int, int]:
        """Resolves sample t: source name, epoch of the source, and number of the sample in the source."""
        if t < 0:
            raise IndexError(f"sample {t}")
        for name, source in self.sources.items():
            if t < source.warmup_samples:
                return name, *self._warmups[name].at(t)
            t -= source.warmup_samples
        period, slot = divmod(t, PERIOD)
        source = int(self._pattern[slot])
        name = self._names[source]
        return name, *self._orders[name].at(int(period * self._counts[source] + self._before[slot]))

    def sample(self, t: int) -> tuple[str, Any]:
        """(source name, sample) of sample t."""
        return self.read(t)[:2]

    def read(self, t: int) -> tuple[str, Any, list[Unreadable]]:
        """As `sample`, with the errors of unreadable samples. The source's next sample replaces one, in every process alike."""
        name, _, i = self.draw(t)
        return name, *read(self.sources[name], i, (self.seed, t))

    def shares(self, t: int) -> dict[str, Share]:
        """What the first t samples consist of, by source."""
        total = t
        warmups = []
        for source in self.sources.values():
            warmups.append(min(t, source.warmup_samples))
            t -= warmups[-1]
        periods, rest = divmod(t, PERIOD)
        counts = np.array(warmups) + periods * self._counts + np.bincount(self._pattern[:rest], minlength=len(self._names))
        return {
            name: Share(int(count) / max(total, 1), self._wanted[name], int(count), self._orders[name].epochs(int(count)))
            for name, count in zip(self._names, counts, strict=True)
        }


def expected_counts(sources: Mapping[str, Source], weights: dict[str, float], t: int) -> dict[str, int]:
    """The number of samples of each source among the first t, as the weights ask for it. No data set is opened.

    The pattern of a mixture gives each source that share of every 1,024 samples; a short run may draw some more or less.

    Raises:
        UserError: the weights cannot be followed.
    """
    leading = {}
    for name, source in sources.items():
        leading[name] = min(t, source.warmup_samples)
        t -= leading[name]
    shares = dict(zip(weights, slots(weights) / PERIOD, strict=True))
    return {name: leading[name] + round(t * shares[name]) for name in sources}


def slots(weights: dict[str, float]) -> np.ndarray:
    """The slots of a period per source, by the largest remainder method; UserError for weights that cannot be followed."""
    values = np.array(list(weights.values()), np.float64)
    if not len(values) or not np.isfinite(values).all() or (values < 0).any() or not values.sum():
        raise UserError(f"weights {weights}", "mixture", "give at least one source with a weight above 0")
    exact = values / values.sum() * PERIOD
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: PERIOD - counts.sum()]] += 1
    starved = [name for name, count, value in zip(weights, counts, values, strict=True) if value and not count]
    if starved:
        raise UserError(f"the weight of {', '.join(starved)} is below 1 in {PERIOD}", "mixture", "raise it or set it to 0")
    return counts

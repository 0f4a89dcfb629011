"""Mixtures: sample t of several sources as a function of (seed, t) and of nothing else.

Batch b of B samples (over all ranks) is the samples b * B to (b + 1) * B - 1, whatever the number of ranks and loader workers; of
these, rank r of W takes rows r, r + W, r + 2W … A run resumes by going on with the next t.
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
    """Sampling weights of sources: each to the power of 1 / temperature (above 1 evens them out), then robots against questions.

    Args:
        sources: by name.
        robot_share: what all robot sources together have of the samples, or a key of ROBOT_SHARES; the weights then only say how
            robot sources share it, and question sources the rest. None: the weights say everything.
        temperature: above 0.

    Raises:
        UserError: a share outside 0 to 1 or of no kind there is, or a temperature of 0 or less.
    """
    if not temperature > 0:
        raise UserError(f"temperature {temperature}", "mixture", "give one above 0; 1 leaves the weights as they are")
    share = ROBOT_SHARES.get(robot_share) if isinstance(robot_share, str) else robot_share
    weights = {
        name: source.weight ** (1 / temperature) if source.weight > 0 else source.weight for name, source in sources.items()
    }
    if robot_share is None:
        return weights
    if share is None or not 0 <= share <= 1:
        raise UserError(f"robot_share {robot_share!r}", "mixture", f"a share from 0 to 1, or one of {', '.join(ROBOT_SHARES)}")
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
    """What was drawn of one source: its share of the samples, how many, and how often the source was gone through.

    `wanted` is the share that its weight asks for; the other differs a little: warm-up samples, and the slots of a period.
    """

    share: float
    wanted: float
    count: int
    epochs: float


class Mixture:
    """Draws from sources in proportion to their weights, each without repeats within one of its epochs.

    A pattern of 1,024 slots, shuffled by the seed, says which source a sample is of; the n-th draw of a source with N samples is
    place n % N of a permutation of its epoch n // N. Which of several questions is drawn, and augmentation, come from a generator
    seeded with (seed, t).

    Sources with `warmup_samples` come first, one after the other, each alone for so many samples.

    Args:
        sources: by name; weights are theirs.
        seed: not negative.
        epoch_length: samples that `len` reports, for progress and schedules; t may go on beyond.
        weights: by name, in place of the sources' own (see `weigh`).

    Raises:
        UserError: no sources, a negative weight or seed, or a weight too small to have a slot.
    """

    def __init__(
        self, sources: dict[str, Source], seed: int = 0, epoch_length: int = 10_000, weights: dict[str, float] | None = None
    ):
        if seed < 0 or epoch_length < 1:
            raise UserError(
                f"seed {seed}, epoch length {epoch_length}", "mixture", "a seed of at least 0, a length of at least 1"
            )
        self.sources, self.seed, self.epoch_length = sources, seed, epoch_length
        self._names = list(sources)
        # The name, not its place: adding a source does not change the order of the others.
        self._orders = {name: source.order((seed, zlib.crc32(name.encode()))) for name, source in sources.items()}
        leading = {name: source for name, source in sources.items() if source.warmup_samples}
        self._leads = {name: source.order((seed, zlib.crc32(f"{name} leading".encode()))) for name, source in leading.items()}
        weights = weights or {name: source.weight for name, source in sources.items()}
        self._counts = _slots(weights)
        self._wanted = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        pattern = np.repeat(np.arange(len(sources)), self._counts)
        self._pattern = np.random.default_rng(seed).permutation(pattern)
        # How many of the same source stand before each slot of the pattern.
        self._before = np.zeros(PERIOD, np.int64)
        for source in range(len(sources)):
            slots = np.flatnonzero(self._pattern == source)
            self._before[slots] = np.arange(len(slots))

    def __len__(self) -> int:
        return self.epoch_length

    def __getitem__(self, t: int) -> tuple[str, Any]:
        return self.sample(t)

    def draw(self, t: int) -> tuple[str, int, int]:
        """Which sample t is: source, its epoch, and the sample's place in the source."""
        if t < 0:
            raise IndexError(f"sample {t}")
        for name, source in self.sources.items():
            if t < source.warmup_samples:
                return name, *self._leads[name].at(t)
            t -= source.warmup_samples
        period, slot = divmod(t, PERIOD)
        source = int(self._pattern[slot])
        name = self._names[source]
        return name, *self._orders[name].at(int(period * self._counts[source] + self._before[slot]))

    def sample(self, t: int) -> tuple[str, Any]:
        """(source name, sample) of sample t."""
        return self.read(t)[:2]

    def read(self, t: int) -> tuple[str, Any, list[Unreadable]]:
        """The same, and what could not be read: the source's next sample stands in for it, whoever reads it."""
        name, _, i = self.draw(t)
        return name, *read(self.sources[name], i, (self.seed, t))

    def shares(self, t: int) -> dict[str, Share]:
        """What the first t samples were, by source."""
        first = t
        leads = []
        for source in self.sources.values():
            leads.append(min(t, source.warmup_samples))
            t -= leads[-1]
        periods, rest = divmod(t, PERIOD)
        counts = np.array(leads) + periods * self._counts + np.bincount(self._pattern[:rest], minlength=len(self._names))
        return {
            name: Share(int(count) / max(first, 1), self._wanted[name], int(count), self._orders[name].epochs(int(count)))
            for name, count in zip(self._names, counts, strict=True)
        }


def _slots(weights: dict[str, float]) -> np.ndarray:
    """Slots of a period per source, by largest remainder."""
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

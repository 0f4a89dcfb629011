"""Mixtures: sample t of several sources as a function of (seed, t) and of nothing else.

Batch b of B samples (over all ranks) is the samples b * B to (b + 1) * B - 1, whatever the number of ranks and loader workers; of
these, rank r of W takes rows r, r + W, r + 2W … A run resumes by going on with the next t.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import Any

import numpy as np

from vla.datasets.sources import Source
from vla.errors import UserError

PERIOD = 1024


@dataclasses.dataclass(frozen=True)
class Share:
    """What was drawn of one source: its share of the samples, how many, and how often the source was gone through."""

    share: float
    count: int
    epochs: float


class Mixture:
    """Draws from sources in proportion to their weights, each without repeats within one of its epochs.

    A pattern of 1,024 slots, shuffled by the seed, says which source a sample is of; the n-th draw of a source with N samples is
    place n % N of a permutation of its epoch n // N. Which of several questions is drawn, and augmentation, come from a generator
    seeded with (seed, t).

    Sources with a `lead` come first, one after the other, each alone for so many samples.

    Args:
        sources: by name; weights are theirs.
        seed: not negative.
        epoch_length: samples that `len` reports, for progress and schedules; t may go on beyond.

    Raises:
        UserError: no sources, a negative weight or seed, or a weight too small to have a slot.
    """

    def __init__(self, sources: dict[str, Source], seed: int = 0, epoch_length: int = 10_000):
        if seed < 0 or epoch_length < 1:
            raise UserError(
                f"seed {seed}, epoch length {epoch_length}", "mixture", "a seed of at least 0, a length of at least 1"
            )
        self.sources, self.seed, self.epoch_length = sources, seed, epoch_length
        self._names = list(sources)
        self._counts = _slots({name: source.weight for name, source in sources.items()})
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

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_permutation"}

    def draw(self, t: int) -> tuple[str, int, int]:
        """Which sample t is: source, its epoch, and the sample's place in the source. Reads nothing."""
        if t < 0:
            raise IndexError(f"sample {t}")
        for name, source in self.sources.items():
            if t < source.lead:
                epoch, place = divmod(t, len(source))
                return name, epoch, int(self._permutation(f"{name} leading", epoch)[place])
            t -= source.lead
        period, slot = divmod(t, PERIOD)
        source = int(self._pattern[slot])
        name = self._names[source]
        epoch, place = divmod(int(period * self._counts[source] + self._before[slot]), len(self.sources[name]))
        return name, epoch, int(self._permutation(name, epoch)[place])

    def sample(self, t: int) -> tuple[str, Any]:
        """(source name, item) of sample t."""
        name, _, i = self.draw(t)
        return name, self.sources[name].item(i, np.random.default_rng((self.seed, t)))

    def shares(self, t: int) -> dict[str, Share]:
        """What the first t samples were, by source."""
        first = t
        leads = []
        for source in self.sources.values():
            leads.append(min(t, source.lead))
            t -= leads[-1]
        periods, rest = divmod(t, PERIOD)
        counts = np.array(leads) + periods * self._counts + np.bincount(self._pattern[:rest], minlength=len(self._names))
        return {
            name: Share(int(count) / max(first, 1), int(count), int(count) / len(self.sources[name]))
            for name, count in zip(self._names, counts, strict=True)
        }

    @functools.cached_property
    def _permutation(self):
        # Loader workers run ahead of one another, so a source may be in two epochs at once.
        @functools.lru_cache(maxsize=2 * len(self._names))
        def permutation(name: str, epoch: int) -> np.ndarray:
            # The name, not its place: adding a source does not change the order of the others.
            rng = np.random.default_rng((self.seed, zlib.crc32(name.encode()), epoch))
            return rng.permutation(len(self.sources[name.removesuffix(" leading")]))

        return permutation


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

"""Rows of a batch: which samples, encoded. Loader processes import this module, so it does without Lightning."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from vla.datasets.mixture import Mixture
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.datasets.sources import read
from vla.errors import Unreadable, UserError
from vla.sequences.batch import Example
from vla.sequences.encode import Encoder
from vla.training.batch import Failure, Sample, TrainingBatch

Sources = Mapping[str, RobotSource | QuestionSource]
Record = tuple[str, str, str]
"""A record that cannot be read: its source, where it is, and why."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch; see `TrainingBatch`. `t` is its position in the mixture, -1 where the mixture is not drawn from."""

    source: int
    weight: float
    sample: Sample
    example: Example
    unreadable: list[Record]
    t: int = -1


class Draws(Dataset):
    """Sample t of the mixture, encoded. A `UserError` is returned and not raised, since the data loader would wrap it."""

    def __init__(self, mixture: Mixture, encoder: Encoder):
        self.mixture, self.encoder, self.names = mixture, encoder, list(mixture.sources)

    def __getitem__(self, t: int) -> Row | UserError:
        try:
            name, sample, errors = self.mixture.read(t)
        except UserError as error:
            return error
        example = self.encoder.build(sample)
        # The example has the images: they need not travel from a loader process twice.
        number, weight = self.names.index(name), self.mixture.sources[name].loss_weight
        return Row(number, weight, sample.without_images(), example, _records(name, errors), t)


class Fixed(Dataset):
    """Samples of each source's held-out split, evenly spread; every `ranks`-th of them from `rank` on.

    All ranks have equally many rows. Rows that are added for that have weight 0, and so has a row that stands in for a sample
    that cannot be read.
    """

    def __init__(self, sources: Sources, encoder: Encoder, limit: int, rank: int = 0, ranks: int = 1):
        self.encoder, self.names, self.sources = encoder, list(sources), list(sources.values())
        rows: list[tuple[int, int, float]] = []
        for number, source in enumerate(self.sources):
            spread = np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int)
            rows += [(number, int(i), 1.0) for i in spread]
        rows += [(*row[:2], 0.0) for row in rows[: -len(rows) % ranks]]
        self.rows = rows[rank::ranks]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Row:
        number, i, weight = self.rows[row]
        sample, errors = read(self.sources[number], i, i)
        weight = 0.0 if errors else weight
        return Row(number, weight, sample, self.encoder.build(sample), _records(self.names[number], errors))


def _records(name: str, errors: list[Unreadable]) -> list[Record]:
    return [(name, error.where, error.what) for error in errors]


def collate(encoder: Encoder, rows: list[Row | UserError], rank: int = 0) -> TrainingBatch | Failure:
    """Puts rows side by side; the failure, where one of them is an error."""
    made: list[Row] = []
    for row in rows:
        if isinstance(row, UserError):
            return Failure.of(row)
        made.append(row)
    return TrainingBatch(
        sequences=encoder.batch([row.example for row in made]),
        source=torch.tensor([row.source for row in made]),
        weight=torch.tensor([row.weight for row in made]),
        samples=[row.sample for row in made],
        first=made[0].t - rank if made[0].t >= 0 else -1,
        unreadable=[record for row in made for record in row.unreadable],
    )


class Cursor(Sampler[list[int]]):
    """Batches of consecutive t, epoch after epoch; rank r of `ranks` gets rows r, r + ranks, … of each batch.

    Args:
        batch: samples per batch over all ranks.
        steps: batches per epoch; the first epoch ends where one that began at t = 0 would have ended.
        start: the first t.
    """

    def __init__(self, batch: int, steps: int, start: int = 0, rank: int = 0, ranks: int = 1):
        self.batch, self.steps, self.start, self.rank, self.ranks = batch, steps, start, rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.steps - (self.start // self.batch) % self.steps):
            t, self.start = self.start, self.start + self.batch
            yield list(range(t + self.rank, t + self.batch, self.ranks))

    def __len__(self) -> int:
        # The whole epoch's: Lightning counts the batches before an interruption itself.
        return self.steps


def end_with(parent: int, _: int) -> None:
    """Ends a loader process when its parent was killed; torch's own would wait for ever to hand over what it has."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""What the data module hands to the module."""

from __future__ import annotations

import dataclasses

import torch

from vla.datasets.samples import QuestionSample, RobotSample
from vla.errors import UserError
from vla.sequences.batch import Batch

Sample = RobotSample | QuestionSample


@dataclasses.dataclass
class TrainingBatch:
    """Samples of several sources, encoded, with what is known of each.

    Attributes:
        sequences: what the model reads and should write.
        source: int64 [B], the number of each row's source.
        weight: float [B], of its loss; 0 for what stands in for a sample that cannot be read, and for what fills up a rank.
        samples: the samples, without their images.
        first: the t of the mixture's sample that all ranks' batches begin with; -1 where the mixture is not drawn from.
        unreadable: source, where and what of records that could not be read.
    """

    sequences: Batch
    source: torch.Tensor
    weight: torch.Tensor
    samples: list[Sample]
    first: int = -1
    unreadable: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same on a device; samples stay."""
        tensors = {name: getattr(self, name).to(device, non_blocking=True) for name in ("source", "weight")}
        return dataclasses.replace(self, sequences=self.sequences.to(device), **tensors)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A batch that could not be made: a user's mistake, as it travels from a loader process."""

    what: str
    where: str
    fix: str

    @classmethod
    def of(cls, error: UserError) -> Failure:
        return cls(error.what, error.where, error.fix)

    def error(self) -> UserError:
        return UserError(self.what, self.where, self.fix)

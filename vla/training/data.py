"""The LightningDataModule: a mixture for training, fixed samples for validation."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.datasets.mixture import Mixture
from vla.datasets.sources import QuestionSource, RobotSource, Source
from vla.errors import UserError
from vla.examples import Examples

Sources = dict[str, RobotSource | QuestionSource]


class Draws(Dataset):
    """Sample t of the mixture as (source number, loss weight, item, example)."""

    def __init__(self, mixture: Mixture, examples: Examples):
        self.mixture, self.examples, self.names = mixture, examples, list(mixture.sources)

    def __getitem__(self, t: int):
        name, item = self.mixture.sample(t)
        return self.names.index(name), self.mixture.sources[name].loss_weight, item, self.examples.build(item)


class Fixed(Dataset):
    """The first samples of each source's held-out split, all questions of a picture one after the other."""

    def __init__(self, sources: Sources, examples: Examples, limit: int):
        self.examples, self.sources, self.rows = examples, list(sources.values()), []
        for number, source in enumerate(self.sources):
            spread = np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int)
            self.rows += [(number, int(i)) for i in spread]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int):
        number, i = self.rows[row]
        item = self.sources[number].item(i, np.random.default_rng(i))
        return number, 1.0, item, self.examples.build(item)


class Cursor(Sampler[list[int]]):
    """Batches of consecutive t, epoch after epoch; rank r of `ranks` gets rows r, r + ranks, … of each batch.

    Args:
        batch: samples per batch over all ranks.
        steps: batches per epoch; the first epoch ends where one begun at t = 0 would have ended.
        start: the first t.
    """

    def __init__(self, batch: int, steps: int, start: int = 0, rank: int = 0, ranks: int = 1):
        self.batch, self.steps, self.start, self.rank, self.ranks = batch, steps, start, rank, ranks

    def __iter__(self):
        for _ in range(self.steps - (self.start // self.batch) % self.steps):
            t, self.start = self.start, self.start + self.batch
            yield list(range(t + self.rank, t + self.batch, self.ranks))

    def __len__(self) -> int:
        # The whole epoch's: Lightning counts the batches before an interruption itself.
        return self.steps


class VLAData(L.LightningDataModule):
    """One mixture of robot and question sources.

    Args:
        sources: by name; each has its sampling weight and its loss weight.
        batch_size: samples per optimizer step, over all ranks.
        seed: of the mixture.
        workers: loader processes; 0 builds batches in the training process.
        val_samples: held-out samples per source at validation.
        epoch_steps: optimizer steps that count as an epoch.
    """

    def __init__(
        self,
        sources: Sources,
        batch_size: int = 128,
        seed: int = 0,
        workers: int = 0,
        val_samples: int = 256,
        epoch_steps: int = 1000,
    ):
        super().__init__()
        if not sources or batch_size < 1:
            raise UserError("no sources, or a batch size below 1", "data", "name at least one source")
        self.sources, self.batch_size, self.seed, self.workers = sources, batch_size, seed, workers
        self.val_samples, self.epoch_steps = val_samples, epoch_steps
        self.consumed = 0
        self.examples: Examples

    def cards(self) -> dict[str, DatasetCard]:
        """The card of each source."""
        return {name: source.card for name, source in self.sources.items()}

    def bind(self, contract: PolicyContract, processor: Any) -> None:
        """Takes the resolved contract and the model's processor; called once, before anything is drawn."""
        self.examples = Examples(contract, processor)
        for source in self.sources.values():
            if isinstance(source, RobotSource):
                source.chunk = contract.chunk

    def split(self, name: str) -> Sources:
        """The sources, restricted to one split."""
        return {key: _with_split(source, name) for key, source in self.sources.items()}

    def train_dataloader(self) -> DataLoader:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        mixture = Mixture(self.split("train"), self.seed, self.epoch_steps * self.batch_size)  # type: ignore[arg-type]
        return DataLoader(
            Draws(mixture, self.examples),
            batch_sampler=Cursor(self.batch_size, self.epoch_steps, self.consumed, rank, ranks),
            num_workers=self.workers,
            collate_fn=self.collate,
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=False,
        )

    def val_dataloader(self) -> DataLoader:
        fixed = Fixed(self.split("val"), self.examples, self.val_samples)
        return DataLoader(fixed, batch_size=self.batch_size, collate_fn=self.collate)

    def test_dataloader(self) -> DataLoader:
        """One empty batch: testing is rolling out."""
        return DataLoader(torch.zeros(1), collate_fn=lambda _: {})  # type: ignore[arg-type]

    def predict_dataloader(self) -> DataLoader:
        """The robot sources' held-out samples in order."""
        robots = {k: s for k, s in self.split("val").items() if isinstance(s, RobotSource)}
        fixed = Fixed(robots, self.examples, max(map(len, robots.values()), default=0))  # type: ignore[arg-type]
        return DataLoader(fixed, batch_size=self.batch_size, collate_fn=self.collate)

    def collate(self, rows: list) -> dict[str, Any]:
        """Model inputs as `Examples.batch` gives them, with the source's number, loss weight and kind per row, and the items."""
        numbers, weights, items, examples = zip(*rows, strict=True)
        batch = self.examples.batch(list(examples))
        batch["source"] = torch.tensor(numbers)
        batch["weight"] = torch.tensor(weights)
        return {**batch, "items": list(items)}

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.consumed, "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        for name in ("batch_size", "seed"):
            if state_dict[name] != getattr(self, name):
                raise UserError(
                    f"the checkpoint was trained with {name} {state_dict[name]}, now it is {getattr(self, name)}",
                    "resume",
                    "resume with the same value, or start from the weights alone",
                )
        self.consumed = state_dict["consumed"]


def _with_split(source: Source, split: Any) -> Any:
    if source.split == split:
        return source
    import copy

    # Training augments, everything else sees the pictures as they are.
    other = copy.copy(source)
    other.split = split
    for name in ("_rows", "_pictures"):
        other.__dict__.pop(name, None)
    if split != "train":
        other.augment, other.cache = [], False
    return other

"""The LightningDataModule: a mixture for training, fixed samples for validation."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vla.datasets.card import DatasetCard
from vla.datasets.mixture import Mixture, weigh
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.datasets.sources import RENAMED, Split, read
from vla.errors import Unreadable, UserError
from vla.sequences.batch import Example
from vla.sequences.encode import Encoder
from vla.training.batch import Failure, Sample, TrainingBatch
from vla.training.unreadable import LeftOut

Sources = dict[str, RobotSource | QuestionSource]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch; see `TrainingBatch`. `t` is its place in the mixture, -1 where that is not drawn from."""

    source: int
    weight: float
    sample: Sample
    example: Example
    unreadable: list[tuple[str, str, str]]
    t: int = -1


class Draws(Dataset):
    """Sample t of the mixture, encoded."""

    def __init__(self, mixture: Mixture, encoder: Encoder):
        self.mixture, self.encoder, self.names = mixture, encoder, list(mixture.sources)

    def __getitem__(self, t: int) -> Row | UserError:
        try:
            name, sample, wrong = self.mixture.read(t)
        except UserError as error:
            # It has to reach the training process as it is, and a loader process would wrap it up.
            return error
        example = self.encoder.build(sample)
        # The images are in the example: they need not travel from a loader process twice.
        number, weight = self.names.index(name), self.mixture.sources[name].loss_weight
        return Row(number, weight, sample.without_images(), example, _records(name, wrong), t)


class Fixed(Dataset):
    """Samples of each source's held-out split, evenly spread; every `ranks`-th of them from `rank` on.

    All ranks have equally many: what fills one up has weight 0, as has what stands in for a sample that cannot be read.
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
        sample, wrong = read(self.sources[number], i, i)
        return Row(number, 0.0 if wrong else weight, sample, self.encoder.build(sample), _records(self.names[number], wrong))


def _records(name: str, wrong: list[Unreadable]) -> list[tuple[str, str, str]]:
    """Source, where and what of records that cannot be read."""
    return [(name, error.where, error.what) for error in wrong]


def collate(encoder: Encoder, rows: list[Row | UserError], rank: int = 0) -> TrainingBatch | Failure:
    """Rows side by side; what went wrong, where one could not be made."""
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
        batch_size: samples per batch, over all ranks; a multiple of their number.
        seed: of the mixture.
        workers: loader processes; 0 builds batches in the training process.
        val_samples: held-out samples per source at validation.
        epoch_steps: batches that count as an epoch.
        robot_share: share of robot samples over all robot sources, or RT-2's (rt2-pali-x, rt2-palm-e); the weights then only
            divide it, and the rest, among sources of a kind. By default the weights say everything.
        temperature: above 1 evens the weights out.
        predict: robot data for `vla predict`, all of it: a folder or one of its shards; "" is what the robot sources hold out.
    """

    def __init__(
        self,
        sources: Sources,
        batch_size: int = 128,
        seed: int = 0,
        workers: int = 0,
        val_samples: int = 256,
        epoch_steps: int = 1000,
        robot_share: float | Literal["rt2-pali-x", "rt2-palm-e"] | None = None,
        temperature: float = 1.0,
        predict: str = "",
    ):
        super().__init__()
        if not sources or batch_size < 1 or workers < 0 or epoch_steps < 1:
            raise UserError(
                f"{len(sources)} sources, batch_size {batch_size}, workers {workers}, epoch_steps {epoch_steps}",
                "data",
                "name at least one source, and numbers of at least 1 (of workers, 0)",
            )
        losses = [source.loss_weight for source in sources.values()]
        if min(losses) < 0 or not sum(losses):
            raise UserError(f"loss weights {losses}", "data.sources", "give each at least 0, and one of them more")
        self.sources, self.batch_size, self.seed, self.workers = sources, batch_size, seed, workers
        self.val_samples, self.epoch_steps = val_samples, epoch_steps
        self.robot_share, self.temperature, self.predict = robot_share, temperature, predict
        self.consumed = 0  # samples of the mixture; a batch is counted when the module gets it
        self.left_out = LeftOut(list(sources))
        self.encoder: Encoder

    def cards(self) -> dict[str, DatasetCard]:
        """The card of each source that has one."""
        return {name: source.card for name, source in self.sources.items() if source.card}

    def bind(self, encoder: Encoder) -> None:
        """Takes the encoder, and with it the resolved contract; called once, before anything is drawn."""
        self.encoder = encoder
        for source in self.sources.values():
            if isinstance(source, RobotSource):
                source.bind(encoder.contract)

    def split(self, name: Split) -> Sources:
        """The sources, restricted to one split."""
        return {key: source if source.split == name else source.restricted(name) for key, source in self.sources.items()}

    def _place(self) -> tuple[int, int]:
        """This process's rank, and of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        rank, ranks = self._place()
        if self.batch_size % ranks:
            raise UserError(f"batch_size {self.batch_size} for {ranks} ranks", "data", "choose a multiple of the number of ranks")
        sources = self.split("train")
        for name, source in sources.items():
            for where, what in source.unreadable.items():
                self.left_out.note(name, where, what, "it is left out")
        weights = weigh(sources, self.robot_share, self.temperature)  # type: ignore[arg-type]
        self.mixture = Mixture(sources, self.seed, self.epoch_steps * self.batch_size, weights)  # type: ignore[arg-type]
        return DataLoader(
            Draws(self.mixture, self.encoder),
            batch_sampler=Cursor(self.batch_size, self.epoch_steps, self.consumed, rank, ranks),
            num_workers=self.workers,
            collate_fn=functools.partial(collate, self.encoder, rank=rank),
            # Not forked: threads and locks of this process do not survive that. Not from a fork server: it outlives a killed run.
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,
            worker_init_fn=functools.partial(_end_with, os.getpid()) if self.workers else None,
        )

    def val_dataloader(self) -> DataLoader:
        fixed = Fixed(self.split("val"), self.encoder, self.val_samples, *self._place())
        each = max(self.batch_size // self._place()[1], 1)
        return DataLoader(fixed, batch_size=each, collate_fn=functools.partial(collate, self.encoder))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Notes what is consumed and what of it could not be read: here, and not where loader processes run ahead.

        Raises:
            UserError: the batch could not be made, or more is unreadable than is tolerated.
        """
        if isinstance(batch, Failure):
            raise batch.error()
        if not isinstance(batch, TrainingBatch):
            return batch
        for name, where, what in batch.unreadable:
            self.left_out.note(name, where, what, "the next sample stands in for it")
            source, drawn = self.sources[name], 0
            if hasattr(self, "mixture"):
                source, drawn = self.mixture.sources[name], self.mixture.shares(self.consumed)[name].count
            source.check(self.left_out.found[name], source.size(drawn))
        if batch.first >= 0:
            self.consumed = batch.first + self.batch_size
        return batch

    def teardown(self, stage: str) -> None:
        """Says what was left out."""
        if self._place()[0] == 0:
            self.left_out.report()

    def drawn(self) -> dict[str, float]:
        """What was drawn so far and how it counts: per source its share and the wanted one, samples, epochs and loss weight, and
        how many could not be read. All ranks call it."""
        self.left_out.share(self._place()[1])
        values = {}
        for name, share in self.mixture.shares(self.consumed).items():
            found = {
                "share": share.share,
                "share_wanted": share.wanted,
                "samples": share.count,
                "epochs": share.epochs,
                "weight": self.sources[name].loss_weight,
                "unreadable": len(self.left_out.found[name]),
            }
            values |= {f"data/{name}_{key}": float(value) for key, value in found.items()}
        return values

    def test_dataloader(self) -> DataLoader:
        """One empty batch: testing is rolling out."""
        return DataLoader(torch.zeros(1), collate_fn=lambda _: {})  # type: ignore[arg-type]

    def predict_dataloader(self) -> DataLoader:
        """Every step of `predict`, or the robot sources' held-out ones, in order."""
        robots = {k: s for k, s in self.split("val").items() if isinstance(s, RobotSource)}
        if self.predict:
            robots = {"predict": self._asked_for(Path(self.predict))}
        fixed = Fixed(robots, self.encoder, max(map(len, robots.values()), default=0))  # type: ignore[arg-type]
        return DataLoader(fixed, batch_size=self.batch_size, collate_fn=functools.partial(collate, self.encoder))

    def _asked_for(self, path: Path) -> RobotSource:
        """The data at a folder or in one shard; ContractMismatch where the policy acts on others."""
        folder, shard = (path.parent, path.name) if path.suffix == ".tar" else (path, "")
        source = RobotSource(folder)
        source.bind(self.encoder.contract)
        return source.of_shard(shard) if shard else source

    def _identity(self) -> dict[str, Any]:
        """All that says which samples come, in plain types; not where they are."""
        every = self.trainer.accumulate_grad_batches if self.trainer else 1
        said: dict[str, Any] = {"epoch_steps": self.epoch_steps, "accumulate_grad_batches": every}
        said |= {"robot_share": self.robot_share, "temperature": self.temperature}
        for name, source in self.sources.items():
            said |= {f"sources.{name}.{key}": repr(value) for key, value in source.settings().items()}
        return said

    def state_dict(self) -> dict[str, Any]:
        said = {"consumed": self.consumed, "batch_size": self.batch_size, "seed": self.seed, "mixture": self._identity()}
        return {**said, "unreadable": self.left_out.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ours = self._identity()
        saved = {_renamed(name): value for name, value in state_dict.get("mixture", ours).items()}
        differ = [name for name in sorted(saved.keys() | ours.keys()) if saved.get(name) != ours.get(name)]
        if differ:
            name = differ[0]
            raise UserError(
                f"the checkpoint's mixture is another: {', '.join(differ)} ({name}: {saved.get(name)}, now {ours.get(name)})",
                "resume",
                "resume with the same data, or start from the weights alone",
            )
        for name in ("batch_size", "seed"):
            if state_dict[name] != getattr(self, name):
                raise UserError(
                    f"the checkpoint was trained with {name} {state_dict[name]}, now it is {getattr(self, name)}",
                    "resume",
                    "resume with the same value, or start from the weights alone",
                )
        self.consumed = state_dict["consumed"]
        self.left_out.add(state_dict.get("unreadable", {}))


def _renamed(setting: str) -> str:
    """A setting of a checkpoint's mixture by its name of today, `sources.NAME.SETTING`."""
    head, dot, last = setting.rpartition(".")
    return head + dot + RENAMED.get(last, last)


def _end_with(parent: int, _: int) -> None:
    """Ends a loader process when its parent was killed; torch's own would wait to hand over what it has for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""The data module: a mixture for training, fixed samples for validation."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.datasets.mixture import Mixture, slots, weigh
from vla.datasets.robot import RobotSource
from vla.datasets.sources import Split
from vla.errors import UserError
from vla.renamed import RENAMED
from vla.sequences.encode import Encoder
from vla.training.batch import Failure, Sample, TrainingBatch
from vla.training.rows import Cursor, Draws, Fixed, Sources, collate, end_with
from vla.training.unreadable import LeftOut


class VLAData(L.LightningDataModule):
    """One mixture of robot and question sources.

    Args:
        sources: by name; each has its sampling weight and its loss weight.
        batch_size: samples per batch over all ranks; a multiple of the number of ranks.
        seed: of the mixture.
        workers: loader processes; 0 builds batches in the training process.
        val_samples: held-out samples per source at validation.
        decoded_samples: held-out steps per robot source whose actions are decoded at each validation; 0 decodes none.
        epoch_steps: batches that count as an epoch.
        robot_share: share of robot samples over all robot sources, or RT-2's (rt2-pali-x, rt2-palm-e). The weights then divide
            this share among the robot sources, and the rest among the others. By default the weights decide alone.
        temperature: a value above 1 makes the weights more equal.
        predict: robot data for `vla predict`, used whole: a folder or one of its shards. "" is what the robot sources hold out.
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
        decoded_samples: int = 32,
    ):
        super().__init__()
        if not sources or batch_size < 1 or workers < 0 or epoch_steps < 1:
            raise UserError(
                f"{len(sources)} sources, batch_size {batch_size}, workers {workers}, epoch_steps {epoch_steps}",
                "data",
                "name at least one source, and numbers of at least 1 (of workers, 0)",
            )
        if min(seed, val_samples, decoded_samples) < 0:
            what = f"seed {seed}, val_samples {val_samples}, decoded_samples {decoded_samples}"
            raise UserError(what, "data", "give at least 0 each")
        losses = [source.loss_weight for source in sources.values()]
        if min(losses) < 0 or not sum(losses):
            raise UserError(f"loss weights {losses}", "data.sources", "give each at least 0, and one of them more")
        self.sources, self.batch_size, self.seed, self.workers = sources, batch_size, seed, workers
        self.val_samples, self.decoded_samples, self.epoch_steps = val_samples, decoded_samples, epoch_steps
        self.robot_share, self.temperature, self.predict = robot_share, temperature, predict
        self.consumed = 0  # samples of the mixture; counted when the module is given the batch
        self.left_out = LeftOut(list(sources))
        self.encoder: Encoder

    def cards(self) -> dict[str, DatasetCard]:
        """The card of each source that has one."""
        return {name: source.card for name, source in self.sources.items() if source.card}

    def check(self, contract: PolicyContract, ranks: int) -> None:
        """Checks what a training needs of the settings, as far as it does not depend on the data.

        Raises:
            UserError: weights cannot be followed, a batch cannot be shared between so many ranks, or a source names a mode or a
                camera that there is not.
        """
        if self.batch_size % ranks:
            raise UserError(f"batch_size {self.batch_size} for {ranks} ranks", "data", "choose a multiple of the number of ranks")
        slots(weigh(self.sources, self.robot_share, self.temperature))  # type: ignore[arg-type]
        cameras = {camera.name: None for embodiment in contract.embodiments.values() for camera in embodiment.cameras}
        for name, source in self.sources.items():
            if isinstance(source, RobotSource):
                source.check_modes(contract)
            for augment in source.augment:
                if unknown := getattr(augment, "shift", {}).keys() - cameras:
                    what, fix = f"unknown cameras {', '.join(sorted(unknown))}", f"the data has {', '.join(cameras)}"
                    raise UserError(what, f"data.sources.{name}.augment", fix)

    def bind(self, encoder: Encoder) -> None:
        """Takes the encoder, which has the resolved contract. Called once, before anything is drawn."""
        self.encoder = encoder
        for source in self.sources.values():
            if isinstance(source, RobotSource):
                source.bind(encoder.contract)

    def split(self, name: Split) -> Sources:
        """The sources, restricted to one split."""
        return {key: source if source.split == name else source.restricted(name) for key, source in self.sources.items()}

    def _rank(self) -> tuple[int, int]:
        """This process's rank, and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        rank, ranks = self._rank()
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
            # Not forked: threads and locks of this process would not survive. No fork server: it would outlive a killed run.
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,
            worker_init_fn=functools.partial(end_with, os.getpid()) if self.workers else None,
        )

    def val_dataloader(self) -> DataLoader:
        fixed = Fixed(self.split("val"), self.encoder, self.val_samples, *self._rank())
        each = max(self.batch_size // self._rank()[1], 1)
        return DataLoader(fixed, batch_size=each, collate_fn=functools.partial(collate, self.encoder))

    def _held_out_robots(self) -> dict[str, RobotSource]:
        return {name: source for name, source in self.split("val").items() if isinstance(source, RobotSource)}

    def decoded(self, whole: bool) -> list[tuple[Sample, float]]:
        """The held-out steps that are decoded at each validation, with their weights (0: one cannot be read).

        Args:
            whole: whether every rank decodes all of them, as sharded weights need it; else each has its part.
        """
        ranks = (0, 1) if whole else self._rank()
        fixed = Fixed(self._held_out_robots(), self.encoder, self.decoded_samples, *ranks)
        return [(row.sample, row.weight) for row in map(fixed.__getitem__, range(len(fixed)))]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts what is consumed, and what of it could not be read. Loader processes run ahead, so they cannot count it.

        Raises:
            UserError: the batch could not be made, or too many samples are unreadable.
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
            source.check(self.left_out.records[name], source.size(drawn))
        if batch.first >= 0:
            self.consumed = batch.first + self.batch_size
        return batch

    def teardown(self, stage: str) -> None:
        """Reports the samples that were left out."""
        if self._rank()[0] == 0:
            self.left_out.report()

    def drawn(self) -> dict[str, float]:
        """What was drawn so far, by metric. Of each source: its share and the intended share, samples, epochs, loss weight and
        the number of unreadable samples. All ranks must call it together."""
        self.left_out.share(self._rank()[1])
        values = {}
        for name, share in self.mixture.shares(self.consumed).items():
            metrics = {
                "share": share.share,
                "share_wanted": share.wanted,
                "samples": share.count,
                "epochs": share.epochs,
                "weight": self.sources[name].loss_weight,
                "unreadable": len(self.left_out.records[name]),
            }
            values |= {f"data/{name}_{key}": float(value) for key, value in metrics.items()}
        return values

    def test_dataloader(self) -> DataLoader:
        """One empty batch: testing means rolling out."""
        return DataLoader(torch.zeros(1), collate_fn=lambda _: {})  # type: ignore[arg-type]

    def predict_dataloader(self) -> DataLoader:
        """Every step of `predict`, or the held-out steps of the robot sources, in order."""
        robots = self._held_out_robots()
        if self.predict:
            robots = {"predict": self._predict_source(Path(self.predict))}
        fixed = Fixed(robots, self.encoder, max(map(len, robots.values()), default=0))
        return DataLoader(fixed, batch_size=self.batch_size, collate_fn=functools.partial(collate, self.encoder))

    def _predict_source(self, path: Path) -> RobotSource:
        """The data in a folder or in one shard; ContractMismatch if it does not fit the policy."""
        folder, shard = (path.parent, path.name) if path.suffix == ".tar" and not path.is_dir() else (path, "")
        source = RobotSource(folder)
        source.bind(self.encoder.contract)
        return source.of_shard(shard) if shard else source

    def _identity(self) -> dict[str, Any]:
        """Everything that decides which samples are drawn, in plain types; not the folders."""
        every = self.trainer.accumulate_grad_batches if self.trainer else 1
        identity: dict[str, Any] = {"epoch_steps": self.epoch_steps, "accumulate_grad_batches": every}
        identity |= {"robot_share": self.robot_share, "temperature": self.temperature}
        for name, source in self.sources.items():
            identity |= {f"sources.{name}.{key}": repr(value) for key, value in source.settings().items()}
        return identity

    def state_dict(self) -> dict[str, Any]:
        drawn = {"consumed": self.consumed, "batch_size": self.batch_size, "seed": self.seed, "mixture": self._identity()}
        return {**drawn, "unreadable": self.left_out.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ours = self._identity()
        saved = {_renamed(name): value for name, value in state_dict.get("mixture", ours).items()}
        # Earlier versions did not note the commit.
        saved = {name: value for name, value in ours.items() if name.endswith(".address")} | saved
        differ = [name for name in sorted(saved.keys() | ours.keys()) if saved.get(name) != ours.get(name)]
        if differ:
            name = differ[0]
            raise UserError(
                f"the checkpoint has another mixture: {', '.join(differ)} ({name}: {saved.get(name)}, now {ours.get(name)})",
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
    """The present name of a setting in a checkpoint's mixture, `sources.NAME.SETTING`."""
    head, dot, last = setting.rpartition(".")
    return head + dot + RENAMED.get(last, last)

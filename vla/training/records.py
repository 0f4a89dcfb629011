"""What a run leaves beside its checkpoints: its configuration, its contract and the rows of CSVLogger."""

from __future__ import annotations

import csv
import itertools
import sys
from typing import Any, TextIO, cast

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from vla.training.callbacks import ours

Row = dict[str, Any]


class RunFiles(SaveConfigCallback):
    """Writes a run's configuration and contract after its first batch, and puts rows of metrics.csv aside that belong to another.

    Until then a setting, a checkpoint or a sample may be refused, and the files of an earlier run stay as they are.
    """

    _began = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Writes nothing yet; and validating a run leaves its training's configuration."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # Nothing after the first time.
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        ours(pl_module).contract.save(trainer.default_root_dir)
        for logger in trainer.loggers:
            rows = getattr(logger, "_experiment", None)
            if isinstance(rows, Rows):
                rows.put_aside(self._began)


def keep_rows(trainer: L.Trainer) -> None:
    """Makes every CSVLogger go on with the metrics.csv in its folder."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger) and rank_zero_only.rank == 0:
            logger._experiment = Rows(logger.log_dir)


class Rows(ExperimentWriter):
    """What CSVLogger writes with. Lightning's own deletes the metrics.csv that it finds."""

    _whole = False

    def put_aside(self, step: int) -> None:
        """Moves the rows of steps after `step` to another file.

        They are of another run, or of a part of this one that is done again.
        """
        keys, rows = self._read()
        later, earlier = ([row for row in rows if (_steps(row) > step) == later] for later in (True, False))
        if not later:
            return
        names = (self.metrics_file_path.removesuffix(".csv") + f"-before-{n}.csv" for n in itertools.count(1))
        aside = next(name for name in names if not self._fs.exists(name))
        self._write(aside, keys, later)
        if earlier:
            self._write(self.metrics_file_path, keys, earlier)
        else:
            self._fs.rm_file(self.metrics_file_path)
            self.metrics_keys = []
        print(f"{len(later)} logged rows of another run are now in {aside}", file=sys.stderr)

    def _check_log_dir_exists(self) -> None:
        self.metrics_keys = self._read()[0]

    def save(self) -> None:
        if self.metrics and not self._whole:
            keys, rows = self._read()
            if rows and self._fs.tail(self.metrics_file_path, 1) != b"\n":
                # A process was killed while it wrote. The next row begins on a line of its own.
                self._write(self.metrics_file_path, keys, rows)
            self._whole = True
        super().save()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self.metrics_file_path, fieldnames, self._read()[1])

    def _read(self) -> tuple[list[str], list[Row]]:
        if not self._fs.isfile(self.metrics_file_path):
            return [], []
        with self._fs.open(self.metrics_file_path, "r", newline="") as file:
            reader = csv.DictReader(cast(TextIO, file))
            return list(reader.fieldnames or ()), list(reader)

    def _write(self, path: str, keys: list[str], rows: list[Row]) -> None:
        """Writes a whole file or nothing."""
        unfinished = f"{path}.tmp"
        with self._fs.open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, keys, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        self._fs.mv(unfinished, path)


def _steps(row: Row) -> int:
    """The optimizer steps done when a row was logged. Lightning, which adds the epoch, counts from 0; callbacks count from 1."""
    try:
        return int(float(row["step"])) + bool(row.get("epoch"))
    except (KeyError, TypeError, ValueError):
        return 0

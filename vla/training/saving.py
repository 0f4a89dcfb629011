"""Checkpoints: whole files, saved at optimizer steps, at intervals and when the job is told to end."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.types import STEP_OUTPUT

from vla.errors import UserError
from vla.files import why_not_data
from vla.renamed import METRICS
from vla.training.batch import TrainingBatch

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that tell a job to end: from a user or a scheduler, or from SLURM before the job's end (`--signal=SIGUSR1@90`)."""
UNFINISHED = ".ckpt.tmp"
Handler = Callable[[int, FrameType | None], Any] | int | None
"""What `signal.signal` returns."""


class WholeFiles(TorchCheckpointIO):
    """Writes a local checkpoint under another name, flushes it to the disk and renames it: it is there whole or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Any] | None = None
    ) -> None:
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name.removesuffix(".ckpt") + UNFINISHED)
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            # torch.save says something else than the disk did.
            disk = error if isinstance(error, OSError) else error.__context__
            if not isinstance(disk, OSError):
                raise
            unfinished.unlink(missing_ok=True)
            fix = "free some space; --ckpt_path last then resumes from the one before"
            raise UserError(f"the checkpoint cannot be written: {disk.strerror}", str(path), fix) from error
        os.replace(unfinished, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name too
        finally:
            os.close(folder)
        return None


class Checkpoints(ModelCheckpoint):
    """Saves every N optimizer steps, after the last one, and after the next one when the job is told to end (SIGTERM, SIGUSR1).

    A save that falls between two optimizer steps waits for the next one, since no checkpoint holds accumulated gradients. Under
    SLURM, SIGUSR1 also puts the job back into the queue. `--ckpt_path last` resumes. Checkpoints from beyond the step at which a
    run begins belong to another run and are moved aside.

    Args:
        dirpath: folder; by default `checkpoints` in the run's (`trainer.default_root_dir`).
        every: optimizer steps between two saves.
        keep: number of checkpoints to keep: the newest, or with `monitor` the best.
        monitor: a logged value that decides which are kept, e.g. rollout/success; "step" keeps the newest and links `last.ckpt`.
        mode: "max" if a larger value is better, "min" if a smaller one is.
    """

    def __init__(self, dirpath: str | None = None, every: int = 500, keep: int = 2, monitor: str = "step", mode: str = "max"):
        if every < 1 or keep < 1:
            raise UserError(f"every {every}, keep {keep}", "Checkpoints", "give at least 1 each")
        if monitor in METRICS:
            print(f"note: {monitor} is now called {METRICS[monitor]}", file=sys.stderr)
            monitor = METRICS[monitor]
        name = "{step:07d}" if monitor == "step" else "{step:07d} " + monitor.replace("/", " ") + " {" + monitor + ":.3f}"
        super().__init__(
            dirpath=dirpath,
            filename="step=" + name,
            monitor=monitor,
            mode=mode,
            save_top_k=keep,
            save_last="link" if monitor == "step" else None,
            every_n_train_steps=every,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._signal, self._began = 0, -1
        self._handlers: dict[int, Handler] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # After an epoch's last batch a new epoch begins; Lightning would count it as the old one.
        if trainer.fit_loop.restarted_mid_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            trainer.fit_loop.reset_restart_stage()
        # The checkpoint that a run was resumed from is not saved again.
        self._last_global_step_saved = trainer.global_step
        self._began = trainer.global_step
        if self.monitor == "step" and threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._signal = number

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: TrainingBatch, batch_idx: int
    ) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self._began >= 0 and self.monitor == "step" and trainer.is_global_zero:
            # Not earlier: until its first batch is done a run may be refused, and then those of another stay where they are.
            put_aside(Path(str(self.dirpath)), self._began)
        self._began = -1
        # Lightning's own would postpone saves at an epoch's last batch to the next validation, and after a resume would save
        # between two optimizer steps.
        if _accumulating(trainer):
            return
        number = _any_rank(trainer, self._signal)
        step = trainer.global_step
        if number or step % self._every_n_train_steps == 0 or step == trainer.estimated_stepping_batches:
            self._save(trainer)
        if number:
            self._end(trainer, number)

    def _save(self, trainer: L.Trainer) -> None:
        candidates = self._monitor_candidates(trainer)
        # The monitored value may not have been measured yet.
        if not self._should_skip_saving_checkpoint(trainer) and self.monitor in candidates:
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)

    def _end(self, trainer: L.Trainer, number: int) -> None:
        if trainer.is_global_zero:
            print(
                f"\n{signal.Signals(number).name}: saved {self._last_checkpoint_saved}; `--ckpt_path last` resumes",
                file=sys.stderr,
            )
            job = os.environ.get("SLURM_JOB_ID", "")
            if number == signal.SIGUSR1 and re.fullmatch(r"[0-9_]+", job):
                try:
                    subprocess.run(["scontrol", "requeue", job], check=False)
                except FileNotFoundError:
                    print("no scontrol here: put the job back into the queue yourself", file=sys.stderr)
        raise SystemExit(128 + number)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()
        metrics = trainer.callback_metrics
        if trainer.is_global_zero and self.monitor != "step" and self.monitor not in metrics:
            print(
                f"note: no checkpoint was chosen by {self.monitor}: only {', '.join(sorted(metrics))} are logged", file=sys.stderr
            )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _accumulating(trainer: L.Trainer) -> bool:
    """Whether gradients are being accumulated, which no checkpoint holds."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def _any_rank(trainer: L.Trainer, number: int) -> int:
    """The highest number of all ranks."""
    if trainer.world_size == 1:
        return number
    highest = torch.tensor(number, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    return int(highest)


def put_aside(folder: Path, step: int) -> None:
    """Moves checkpoints of later steps aside, since `last` would resume from them, and removes unfinished ones."""
    for path in folder.glob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)
    later = [path for path in folder.glob("*.ckpt") if not path.is_symlink() and step < steps_in(path) < sys.maxsize]
    if later:
        number = next(n for n in itertools.count(1) if not (folder / f"before-{n}").exists())
        (folder / f"before-{number}").mkdir()
        for path in later:
            path.rename(folder / f"before-{number}" / path.name)
        moved = "1 checkpoint of another run is" if len(later) == 1 else f"{len(later)} checkpoints of another run are"
        print(f"{moved} now in {folder / f'before-{number}'}", file=sys.stderr)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder of checkpoints while this one lasts, however it ends; UserError if one has it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fix = "wait until it ends, stop it, or choose another folder"
            raise UserError("another run is training into this folder", str(folder), fix) from None
        except OSError:
            pass  # a file system without locks
        yield


def damage(path: Path) -> str:
    """What is wrong with a checkpoint file, by its check sums; "" if nothing is. The content is not loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return why_not_data(path) or str(error)
    return f"the check sum of {bad} is wrong" if bad else ""


def steps_in(path: Path) -> int:
    """The optimizer steps after which a checkpoint was saved: from its name, else from its content (no weight is read)."""
    named = re.match(r"step=(\d+)", path.name)
    if named:
        return int(named[1])
    try:
        return int(torch.load(path, "cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # noqa: BLE001 (a file that is no checkpoint may raise anything; it is tried last, and named)
        return sys.maxsize


def newest(folder: Path) -> Path | None:
    """The undamaged checkpoint with the most steps (copying files changes their times); of several with as many, the latest.

    Damaged and unfinished ones are named on standard error. None if there is none.
    """
    for path in sorted(folder.glob(f"*{UNFINISHED}")):
        print(f"{path} is unfinished: the run was ended while it was written", file=sys.stderr)
    files = {path.resolve() for path in folder.glob("*.ckpt") if path.is_file()}
    for path in sorted(files, key=lambda p: (steps_in(p), p.stat().st_mtime_ns), reverse=True):
        wrong = damage(path)
        if not wrong:
            return path
        print(f"{path} is damaged ({wrong}); trying the one before it", file=sys.stderr)
    return None

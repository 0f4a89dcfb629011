"""What Lightning does not check about its settings, or only when a run is under way."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from vla.contract import PolicyContract
from vla.datasets.questions import QuestionSource
from vla.errors import UserError
from vla.folders import check_writable
from vla.models.families.base import ModelFamily
from vla.tokenization.prompts import action_prompt, question_prompt
from vla.training.rows import Sources

SEEDS = 2**32
"""How many seeds numpy has."""


def check_seed(seed: bool | int) -> None:
    """Raises UserError if no generator takes the seed."""
    if not isinstance(seed, bool) and not 0 <= seed < SEEDS:
        raise UserError(f"seed {seed}", "seed_everything", f"give 0 to {SEEDS - 1}")


def check_trainer(trainer: L.Trainer) -> None:
    """Checks what a trainer is to do.

    Raises:
        UserError: a number is out of its range, or the setting does not go together with this project's data or checkpoints.
    """
    numbers = {
        "accumulate_grad_batches": (trainer.accumulate_grad_batches, 1),
        "check_val_every_n_epoch": (trainer.check_val_every_n_epoch, 1),
        "val_check_interval": (trainer.val_check_interval if isinstance(trainer.val_check_interval, int) else None, 1),
        "log_every_n_steps": (trainer.log_every_n_steps, 0),  # type: ignore[attr-defined]
        "gradient_clip_val": (trainer.gradient_clip_val, 0),
    }
    for name, (number, least) in numbers.items():
        if number is not None and number < least:
            raise UserError(f"{name} {number}", f"trainer.{name}", f"give at least {least}")
    if getattr(trainer.strategy, "_save_distributed_checkpoint", False):
        raise UserError(
            "checkpoints in parts cannot be resumed or exported", "trainer.strategy", "set save_distributed_checkpoint: false"
        )
    limit = trainer.limit_train_batches
    # 1.0 is all of an epoch, 1 is one batch. `fast_dev_run` is a limit too.
    if not trainer.fast_dev_run and (limit != 1.0 or isinstance(limit, int)):  # type: ignore[attr-defined]
        raise UserError(
            "limit_train_batches or overfit_batches with a mixture that has no end", "trainer", "set data.epoch_steps"
        )
    if trainer.gradient_clip_algorithm == "value" or str(trainer.precision) == "16-mixed":
        raise UserError("clipping by value, or 16-mixed", "trainer", "clip by norm; train in bf16-mixed")


def check_folders(trainer: L.Trainer, saves: bool) -> None:
    """Checks that a run can write what it will write.

    Args:
        saves: whether it trains, and so saves checkpoints.

    Raises:
        UserError: it cannot.
    """
    folders = {"trainer.default_root_dir": trainer.default_root_dir}
    for callback in trainer.callbacks if saves else ():  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            folders[f"{type(callback).__name__}.dirpath"] = str(callback.dirpath)
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger | TensorBoardLogger):
            folders[f"{type(logger).__name__}.save_dir"] = logger.save_dir
    for option, folder in folders.items():
        check_writable(str(folder), option)


def check_prompts(contract: PolicyContract, family: ModelFamily, sources: Sources) -> None:
    """Raises UserError if prompts for these sources cannot be made from the contract's templates."""
    action_prompt(contract, "go", family.processor, family.image_text)
    if any(isinstance(source, QuestionSource) for source in sources.values()):
        question_prompt(contract, "what", family.processor, family.image_text)


def check_smoothing(contract: PolicyContract, bins: float) -> None:
    """Raises UserError if targets are to be smoothed and the contract's tokens are no quantities."""
    if bins > 0 and contract.codec in ("numbers", "fast") and contract.tokens == "integers":
        raise UserError(
            f"the integers of codec {contract.codec} are not quantities", "model.bin_smoothing", "set it to 0, or tokens: append"
        )

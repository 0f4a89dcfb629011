"""What Lightning says that a user of `vla` need not read: it is left out."""

from __future__ import annotations

import logging
import re
import warnings

WARNINGS = (
    "LightningCLI's args parameter is intended to run from within Python",  # ours are the command line's
    ".*isinstance.treespec, LeafSpec.*",
    ".*your dataloader is not resumable",  # the cursor travels with the data module
    "The '.*_dataloader' does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",
    "You have overridden `transfer_batch_to_device`",
    ".*recommended to use .*sync_dist",  # metrics are reduced before they are logged
    ".*WeightAveraging callback with a model that overrides",  # sharded runs are refused
)
"""Warnings that a user can ignore."""
INFOS = (
    "💡 Tip",  # of its company's services
    "GPU available",
    "TPU available",
    "Seed set to",
    "Using bfloat16 Automatic Mixed Precision",
    "Restoring states from the checkpoint",  # `--ckpt_path last` names the file before
    "Restored all states from the checkpoint",
    "Loaded model weights from the checkpoint",
    "`Trainer(val_check_interval=1)` was configured",  # as the recipe says
    "`Trainer.fit` stopped",  # at max_steps, as it was told to
)
"""Beginnings of logged lines that a user can ignore, or that we say ourselves."""


def worth_reading(record: logging.LogRecord) -> bool:
    return not re.sub(r"^\[rank: \d+\] ", "", record.getMessage()).startswith(INFOS)


def leave_out_noise() -> None:
    """Applies to this process."""
    for warning in WARNINGS:
        warnings.filterwarnings("ignore", message=warning)
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(logger).addFilter(worth_reading)

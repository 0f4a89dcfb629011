"""Checkpoints of a run: plain types in a file of one name, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from vla.errors import UserError
from vla.rl.options import RLOptions

CHECKPOINT = "checkpoint.pt"


def read_checkpoint(out: Path, options: RLOptions) -> dict[str, Any] | None:
    """The folder's checkpoint; None where there is none.

    Raises:
        UserError: it is damaged, of another run, or of an algorithm that cannot go on.
    """
    path = out / CHECKPOINT
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"not a checkpoint: {error}", str(path), "remove it, or give another --out") from error
    different = [k for k, v in options.identity().items() if saved["identity"].get(k) != v]
    if different:
        raise UserError(f"the folder's run has another {', '.join(different)}", str(path), "give another --out")
    if options.algorithm == "sac" and saved["steps"] < options.steps:
        raise UserError("sac cannot go on: its memory is not saved", str(path), "remove it, or give another --out")
    return saved


def write_checkpoint(out: Path, state: dict[str, Any]) -> None:
    """Puts it in the place of an earlier one."""
    unfinished = out / f".{CHECKPOINT}.{os.getpid()}"
    torch.save(state, unfinished)
    unfinished.replace(out / CHECKPOINT)

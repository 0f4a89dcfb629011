"""Reads and writes a run's checkpoint: plain types in one file, replaced atomically."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from vla.errors import UserError
from vla.promptable.cache import CachedRepresentation
from vla.rl.learners.registry import resumes
from vla.rl.runs.options import RunOptions

CHECKPOINT = "checkpoint.pt"
Saved = dict[str, Any]
"""The content of a checkpoint: numbers, strings, tensors and containers of them."""


def read_checkpoint(out: Path, options: RunOptions) -> Saved | None:
    """Reads the folder's checkpoint; returns None if there is none.

    Raises:
        UserError: the checkpoint is damaged or of another run, or its learner cannot resume.
    """
    path = out / CHECKPOINT
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"not a checkpoint: {error}", str(path), "remove it, or give another --out") from error
    if not isinstance(saved, dict) or not {"identity", "asked"} <= saved.keys():
        raise UserError("not a checkpoint of this version's `vla rl fit`", str(path), "remove it, or give another --out")
    different = [k for k, v in options.identity().items() if saved["identity"].get(k) != v]
    if different:
        raise UserError(f"the folder's run has another {', '.join(different)}", str(path), "give another --out")
    learner = options.learner.name
    if not resumes(learner) and saved["steps"] < options.budget.steps:
        message = f"{learner} cannot resume: its replay buffer is not saved"
        raise UserError(message, str(path), "remove it, or give another --out")
    return saved


def check_model(out: Path, saved: Saved, representation: CachedRepresentation | None) -> None:
    """Checks that the run's frozen model and its settings are those of the checkpoint.

    Raises:
        UserError: they are not.
    """
    now = representation.identity if representation else {}
    different = [name for name, value in now.items() if saved["asked"].get(name) != value]
    if different:
        message = f"the frozen model has changed since the run began: another {', '.join(different)}"
        raise UserError(message, str(out / CHECKPOINT), "restore the model, or give another --out")


def write_checkpoint(out: Path, state: Saved) -> None:
    """Writes the checkpoint, replacing an earlier one."""
    unfinished = out / f".{CHECKPOINT}.{os.getpid()}"
    torch.save(state, unfinished)
    unfinished.replace(out / CHECKPOINT)

"""Checkpoints of a run: plain types in a file of one name, written whole or not at all."""

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
"""What a checkpoint holds: numbers, strings, tensors and containers of them."""


def read_checkpoint(out: Path, options: RunOptions) -> Saved | None:
    """The folder's checkpoint; None where there is none.

    Raises:
        UserError: it is damaged, of another run, or of a learner that cannot go on.
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
        raise UserError(f"{learner} cannot go on: its memory is not saved", str(path), "remove it, or give another --out")
    return saved


def check_model(out: Path, saved: Saved, representation: CachedRepresentation | None) -> None:
    """Raises UserError where the run's frozen model or its settings are not what they were."""
    now = representation.identity if representation else {}
    different = [name for name, value in now.items() if saved["asked"].get(name) != value]
    if different:
        what = f"the frozen model is not the one that the run began with: another {', '.join(different)}"
        raise UserError(what, str(out / CHECKPOINT), "put that one back, or give another --out")


def write_checkpoint(out: Path, state: Saved) -> None:
    """Replaces an earlier one."""
    unfinished = out / f".{CHECKPOINT}.{os.getpid()}"
    torch.save(state, unfinished)
    unfinished.replace(out / CHECKPOINT)

"""`vla export`: a checkpoint as a self-contained folder of safetensors, configuration, processor and contract."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from vla.contract import PolicyContract
from vla.errors import UserError


def write_export(folder: str | Path, model: Any, processor: Any, contract: PolicyContract) -> Path:
    """Writes the folder whole or not at all, replacing an earlier export.

    Raises:
        UserError: the folder is there and is no export.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "contract.json").is_file():
        raise UserError("the folder is there and is no export", str(folder), "choose another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    contract.save(unfinished)
    for path in unfinished.rglob("*"):
        # safetensors writes for the owner alone.
        path.chmod(0o755 if path.is_dir() else 0o644)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)
    return folder


def export(ckpt: str, out: str) -> str:
    """Writes a checkpoint of `vla fit` as a folder that `vla rollout` and `vla serve` take.

    Args:
        ckpt: the checkpoint file.
        out: the folder to write; an earlier export there is replaced.
    """
    from vla.training.checkpoint import load_checkpoint

    model, processor, contract = load_checkpoint(ckpt)
    folder = write_export(out, model, processor, contract)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    return f"{folder}: {size:.1f} MiB, contract {contract.hash[:12]}"

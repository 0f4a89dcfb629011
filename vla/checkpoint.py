"""Checkpoints that need no run: weights, model configuration, processor and contract. Plain types only."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import vla.models.load  # noqa: F401  (registers our own classes with transformers)
from vla.contract import PolicyContract
from vla.errors import UserError
from vla.models.adapters import Lora, add_lora, merged


def describe_model(model: Any, processor: Any) -> dict[str, bytes]:
    """The files that say what the model is, without its weights: name -> content."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        root = Path(folder)
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint of `vla fit`, without unpickling anything but plain types and tensors.

    Args:
        mmap: leave tensors in the file until they are used.

    Raises:
        UserError: no such file, not a checkpoint, or one without a contract.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such checkpoint", str(path), "`vla fit` writes them to <run>/checkpoints")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever a file that is no checkpoint makes of an unpickler
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"not a readable checkpoint: {first}", str(path), "use the one before it") from error
    if not isinstance(checkpoint, dict) or "contract" not in checkpoint or "vlm" not in checkpoint:
        raise UserError("the checkpoint holds no contract", str(path), "only checkpoints written by `vla fit` can be used")
    return checkpoint


def load_checkpoint(path: str | Path) -> tuple[Any, Any, PolicyContract]:
    """The model, its processor and its contract."""
    return assemble(read_checkpoint(path), path)


def assemble(checkpoint: dict[str, Any], path: str | Path) -> tuple[Any, Any, PolicyContract]:
    """The same from a checkpoint's content; `path` names it. Adapters are merged into the weights."""
    contract = PolicyContract.from_dict(checkpoint["contract"], str(path))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in checkpoint["vlm"].items():
            target = (Path(folder) / name).resolve()
            if not target.is_relative_to(Path(folder).resolve()):
                raise UserError(f"a file name that leaves its folder: {name!r}", str(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
        model = add_lora(model, Lora(**checkpoint.get("lora", {})))
        processor = AutoProcessor.from_pretrained(folder)
    weights = {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if k.startswith("model.")}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"weights and configuration disagree: {str(error).splitlines()[-1].strip()}", str(path)) from error
    return merged(model).eval(), processor, contract

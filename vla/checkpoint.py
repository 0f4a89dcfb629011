"""Self-contained checkpoints: weights, model configuration, processor and contract, as plain types only."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

import vla.models.load  # noqa: F401  (registers our own classes with transformers)
from vla.contract import PolicyContract
from vla.errors import UserError
from vla.files import why_not_data
from vla.models.adapters import Lora, add_lora, merged
from vla.models.four_bit import dequantised
from vla.models.weights import Weights


def describe_model(model: PreTrainedModel, processor: ProcessorMixin) -> dict[str, bytes]:
    """Returns the files of the model's configuration and of its processor: name -> content."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        root = Path(folder)
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Reads a checkpoint of `vla fit`. Only plain types and tensors are unpickled.

    Args:
        mmap: whether tensors stay in the file until they are used.

    Raises:
        UserError: the file does not exist, is not a checkpoint, or has no contract.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such checkpoint", str(path), "`vla fit` writes them to <run>/checkpoints")
    if not zipfile.is_zipfile(path):
        why = why_not_data(path) or "neither whole nor in torch's format"
        raise UserError(f"not a readable checkpoint: {why}", str(path), "use an earlier checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch.load raises many types of errors for a damaged file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"not a readable checkpoint: {first}", str(path), "use an earlier checkpoint") from error
    if not isinstance(checkpoint, dict) or "contract" not in checkpoint or "vlm" not in checkpoint:
        raise UserError("the checkpoint has no contract", str(path), "give a checkpoint written by `vla fit`")
    return checkpoint


def load_checkpoint(path: str | Path) -> tuple[Any, Any, PolicyContract]:
    """Loads the model, its processor and its contract."""
    return assemble(read_checkpoint(path), path)


def weights_of(checkpoint: dict[str, Any]) -> Weights:
    """The model's weights in a checkpoint, with adapters; those of 4 bits as floats."""
    return dequantised({k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if k.startswith("model.")})


def assemble(checkpoint: dict[str, Any], path: str | Path) -> tuple[Any, Any, PolicyContract]:
    """Builds model, processor and contract from a checkpoint's content; errors name `path`. Adapters are merged."""
    contract = PolicyContract.from_dict(checkpoint["contract"], str(path))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in checkpoint["vlm"].items():
            target = (Path(folder) / name).resolve()
            if not target.is_relative_to(Path(folder).resolve()):
                raise UserError(f"the file name {name!r} points out of its folder", str(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        config = AutoConfig.from_pretrained(folder)
        packed = hasattr(config, "quantization_config")
        if packed:
            # The weights become floats again.
            delattr(config, "quantization_config")
        model = AutoModelForImageTextToText.from_config(config)
        model = model.float() if packed else model
        model = add_lora(model, Lora(**checkpoint.get("lora", {})))
        processor = AutoProcessor.from_pretrained(folder)
    try:
        model.load_state_dict(weights_of(checkpoint), strict=True)
    except RuntimeError as error:
        raise UserError(f"weights and configuration do not match: {str(error).splitlines()[-1].strip()}", str(path)) from error
    return merged(model).eval(), processor, contract

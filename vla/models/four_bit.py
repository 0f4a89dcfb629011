"""Weights in 4 bits by bitsandbytes, under adapters that learn (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vla.errors import UserError
from vla.models.quiet import leave_out_noise
from vla.models.weights import Weights

Quantise = Literal["", "4bit"]


def loading() -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a model with 4-bit weights: NF4, and scales in 8 bits. Embeddings and head stay.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("bitsandbytes is not installed", "model.quantise", "install vla[lowbit]")
    leave_out_noise()
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    # By default it would load to the first GPU, in every process.
    return {"quantization_config": config, "device_map": {"": "cpu"}, "dtype": torch.bfloat16}


def quantised(module: nn.Module) -> bool:
    """Whether it is a layer of 4-bit weights of bitsandbytes."""
    # By name: importing bitsandbytes takes seconds. Adapters wrap such layers in a class of the same name.
    return type(module).__name__ == "Linear4bit" and not hasattr(module, "base_layer")


def keep_layout(model: nn.Module) -> None:
    """Keeps 4-bit weights as they are stored while they compute.

    On CPUs with AVX-512, bitsandbytes would pack them anew the first time they evaluate, with scales rounded to bfloat16: a run
    would resume with other weights, and layers narrower than 64 would fail.
    """
    for module in model.modules():
        if quantised(module):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def check_method(config: PreTrainedConfig, where: str) -> None:
    """Raises UserError if a model's weights are quantised in another way than ours. Needs neither weights nor their package."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    if not settings.get("load_in_4bit"):
        method = settings.get("quant_method", "an unknown method")
        fix = "use the original weights, with model.quantise: 4bit if they are too large"
        raise UserError(f"the weights are quantised by {getattr(method, 'value', method)}, and do not learn", where, fix)


def check_quantised(model: PreTrainedModel, rank: int, where: str) -> None:
    """Checks that a model can be trained if its weights are quantised.

    Args:
        rank: of the adapters; 0: all weights are to learn.
        where: the model's name, for errors.

    Raises:
        UserError: it cannot.
    """
    if getattr(model.config, "quantization_config", None) is not None and not rank:
        raise UserError(
            "quantised weights do not learn in full", where, "set model.lora.rank, e.g. 16, or use the original weights"
        )


def _parts(weights: Weights) -> dict[str, Weights]:
    """Name of each 4-bit weight -> what its scales are made of."""
    parts: dict[str, Weights] = {}
    for name, value in weights.items():
        weight, dot, part = name.rpartition(".weight.")
        if dot:
            parts.setdefault(f"{weight}.weight", {})[part] = value
    return {name: own for name, own in parts.items() if any(part.startswith("quant_state.") for part in own)}


def four_bit(weights: Weights) -> bool:
    """Whether some of a checkpoint's weights are in 4 bits."""
    return bool(_parts(weights))


def dequantised(weights: Weights) -> Weights:
    """The weights with those of 4 bits as floats, as they were computed with.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    parts = _parts(weights)
    if not parts:
        return weights
    leave_out_noise()
    try:
        from bitsandbytes.functional import QuantState, dequantize_4bit  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            "the checkpoint has 4-bit weights, and bitsandbytes is not installed", "model", "install vla[lowbit]"
        ) from error
    plain = without_scales(weights)
    for name, own in parts.items():
        plain[name] = dequantize_4bit(weights[name], QuantState.from_dict(dict(own), device=torch.device("cpu")))
    return plain


def without_scales(weights: Weights) -> Weights:
    """The weights by the names that a module's parameters have."""
    scales = {f"{name}.{part}" for name, own in _parts(weights).items() for part in own}
    return {name: value for name, value in weights.items() if name not in scales}


def check_same(saved: Weights, ours: Weights, where: str) -> None:
    """Raises UserError if two models have other 4-bit weights: what is loaded goes on with the scales that are there."""
    for name, own in _parts(saved).items():
        theirs = _parts(ours).get(name, {})
        if own.keys() != theirs.keys() or any(not torch.equal(value.cpu(), theirs[part].cpu()) for part, value in own.items()):
            raise UserError(f"the checkpoint has other 4-bit weights in {name}", where, "keep model.vlm and model.quantise")

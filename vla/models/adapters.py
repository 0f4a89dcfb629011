"""Low-rank adapters (Hu et al. 2021) by peft: a few added weights are trained, and the model's own are frozen."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.models.quiet import leave_out_noise
from vla.tokenization.vocabulary import Vocabulary

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BASE = "base.json"
"""In a folder of adapters alone: the model that they are added to, as `Base` describes it."""


@dataclasses.dataclass(frozen=True)
class Base:
    """The model that a folder's adapters are added to.

    Attributes:
        model: a folder, or a name that `load_vlm` knows.
        files: the hash of its files; "" for a model on the hub, whose name has a commit.
        dtype: the type to which the run rounded its weights: float32, bfloat16 or float16.
    """

    model: str
    files: str
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Lora:
    """Settings of the adapters.

    Attributes:
        rank: rank of the added matrices; 0 adds none.
        alpha: the product of the matrices is scaled by alpha / rank.
        dropout: dropout rate of the adapters' input.
        targets: names of layers, or a regular expression for full names; "all-linear" is every linear layer except the head.
        also: names of layers that are trained in full.
        rows: ids of tokens whose rows of the embeddings and of the head are trained in full; None: the action tokens and
            locations, unless they are the model's own integers, and the words that were added to a pre-trained language model.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    also: list[str] = dataclasses.field(default_factory=list)
    rows: list[int] | None = None


def add_lora(model: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    """Adds adapters to a model and freezes its own weights. Returns the model unchanged if the rank is 0.

    The adapted model is a `PeftModel`, which passes attributes and calls on to the model that it wraps.

    Raises:
        UserError: peft is not installed, or a target matches no layer.
    """
    if not lora.rank:
        return model
    check_peft("model.lora")
    from peft import LoraConfig, get_peft_model

    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is layer for layer in layers)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        modules_to_save=lora.also or None,
        # The states of a frozen text encoder are kept: adapters would change nothing.
        exclude_modules=r"text_encoder\..*" if getattr(model, "text_encoder", None) is not None else None,
        trainable_token_indices={name: list(lora.rows) for name in names} if lora.rows else None,
    )
    try:
        return cast(PreTrainedModel, get_peft_model(model, config))
    except (ValueError, re.error) as error:
        raise UserError(str(error).splitlines()[0], "model.lora", "name layers of the model") from error


def check_peft(where: str) -> None:
    """Raises UserError if peft is not installed, which adapters need, also where they are merged."""
    if importlib.util.find_spec("peft") is None:
        raise UserError("peft is not installed", where, "install vla[lora]")
    leave_out_noise()


def check_lora(model: PreTrainedModel, lora: Lora) -> None:
    """Raises UserError if peft is not installed, or a target matches no layer."""
    if not lora.rank:
        return
    check_peft("model.lora")
    names = [name for name, _ in model.named_modules()]
    for target in [lora.targets] if isinstance(lora.targets, str) else lora.targets:
        try:
            whole = isinstance(lora.targets, str)
            matches = any(re.fullmatch(target, name) if whole else f".{name}".endswith(f".{target}") for name in names)
        except re.error as error:
            raise UserError(f"{target!r} is no regular expression: {error}", "model.lora.targets") from error
        if target != "all-linear" and not matches:
            raise UserError(f"no layer is named {target!r}", "model.lora.targets", "name layers of the model")


def with_token_rows(lora: Lora, contract: PolicyContract, vocabulary: Vocabulary, own_words: int = 0) -> Lora:
    """The settings, where the rows of the action tokens learn unless `rows` are given.

    Args:
        own_words: number of words that a small model's pre-trained language model came with; 0: all are its own.
    """
    if not lora.rank or lora.rows is not None:
        return lora
    rows = [*vocabulary.action_ids, *vocabulary.loc_ids]
    if own_words:
        rows = sorted({i for i in (*rows, *vocabulary.integer_ids) if i >= own_words})
    elif contract.tokens == "integers":
        rows = []
    return dataclasses.replace(lora, rows=rows)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the plain model with its adapters merged into the weights; the model itself if it has no adapters."""
    merge: Callable[[], PreTrainedModel] | None = getattr(model, "merge_and_unload", None)
    return model if merge is None else merge()


def save_adapters(model: PreTrainedModel, folder: str | Path, base: Base) -> None:
    """Writes the adapters of a model in peft's format, and the model's configuration, without the model's own weights."""
    from peft import PeftModel

    adapted = cast(PeftModel, model)
    adapted.peft_config["default"].base_model_name_or_path = base.model
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    cast(PreTrainedModel, adapted.get_base_model()).config.save_pretrained(folder)
    (Path(folder) / BASE).write_text(json.dumps(dataclasses.asdict(base)), encoding="utf-8")


def base_of(folder: str | Path) -> Base | None:
    """The model that the adapters of a folder are added to; None if the folder is no export of adapters.

    Raises:
        UserError: the folder's file that says so is damaged.
    """
    path = Path(folder) / BASE
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        base = Base(str(known["model"]), str(known["files"]), str(known.get("dtype", Base.dtype)))
        if base.dtype not in DTYPES:
            raise ValueError(base.dtype)
        return base
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("it does not say which model the adapters are added to", str(path), "export the run again") from error


@torch.no_grad()
def _round(model: nn.Module, dtype: torch.dtype) -> None:
    """Rounds weights to a type, and keeps them in their own."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.to(dtype))


def with_saved_adapters(model: PreTrainedModel, folder: str | Path, words: int, dtype: str) -> PreTrainedModel:
    """Returns the model with the adapters that `save_adapters` wrote merged into its weights.

    Args:
        dtype: of `Base`. The weights are rounded to it first, as they were where the adapters learned.
        words: rows of the embeddings that the adapters were trained with: there may be new ones.
    """
    from peft import PeftModel

    if len(cast(nn.Embedding, model.get_input_embeddings()).weight) != words:
        model.resize_token_embeddings(words, mean_resizing=False)
    if dtype != "float32":
        _round(model, DTYPES[dtype])
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    plain = merged(cast(PreTrainedModel, PeftModel.from_pretrained(model, str(folder))))
    # peft has frozen them. A training may begin with this model.
    for name, weight in plain.named_parameters():
        weight.requires_grad_(name in learning)
    return plain

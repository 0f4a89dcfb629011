"""`vla export`: a checkpoint as a self-contained folder of safetensors, configuration, processor, contract and card."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, ProcessorMixin

from vla import hub
from vla.contract import PolicyContract, Statistic, StatisticOption
from vla.errors import UserError
from vla.folders import check_writable
from vla.models.adapters import Base, Lora, add_lora, save_adapters
from vla.models.families.base import ModelFamily
from vla.models.families.find import family_of
from vla.models.four_bit import four_bit
from vla.models.inputs import ModelInputs
from vla.models.int8 import to_int8
from vla.models.load import local_files_hash
from vla.models.weights import Weights, weights_hash
from vla.observation import Observation
from vla.policies.trained_on import write_sources
from vla.sequences.encode import Encoder
from vla.tokenization.codecs import with_statistic
from vla.training.model_card import Card, copied_card, facts_of, model_card

Dtype = Literal["float32", "bfloat16", "float16", "int8"]
CLOSE = 1e-3
"""Largest difference of a logit that merging adapters may make, relative to the largest logit."""


def write_export(
    folder: str | Path,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    contract: PolicyContract,
    card: Card | None = None,
    adapted: PreTrainedModel | None = None,
    rounded: str = "float32",
) -> Path:
    """Writes the folder whole or not at all, replacing an earlier export.

    Args:
        adapted: the model with its adapters apart, to write these instead of the weights; `card.base` is what they are added to.
        rounded: the type that the run had its weights in.

    Raises:
        UserError: the folder is there and is no export; or base and adapters do not give the model.
    """
    folder, card = Path(folder), card or Card()
    with _whole(folder) as unfinished:
        if adapted is None:
            model.save_pretrained(unfinished)
        else:
            save_adapters(adapted, unfinished, Base(card.base, local_files_hash(card.base), rounded))
        processor.save_pretrained(unfinished)
        if adapted is not None:
            _check_restored(unfinished, model, card.base)
        contract.save(unfinished)
        write_card(unfinished, model, contract, card)
        write_sources(unfinished, card.data)
    return folder


def _check_restored(folder: Path, model: PreTrainedModel, base: str) -> None:
    """Raises UserError if the base with the folder's adapters is not the model."""
    fix = "give the model that training began with as --base, or leave --merge_lora on"
    try:
        restored, weights = _base_weights(str(folder)), model.state_dict()
    except UserError as error:
        # The folder is not there yet, and its checkpoint is not at fault.
        raise UserError(error.what, base, fix) from error
    different = sorted(
        name for name in restored.keys() | weights.keys()
        if name not in restored or name not in weights or restored[name].shape != weights[name].shape
        or not torch.allclose(restored[name].float(), weights[name].float(), rtol=1e-4, atol=1e-6)
    )  # fmt: skip
    if different:
        what = f"with the adapters, its weights are not those that were trained: {', '.join(different[:3])}"
        raise UserError(what, base, fix)


def write_card(folder: str | Path, model: PreTrainedModel, contract: PolicyContract, card: Card) -> None:
    """Writes the model card of an export, with hash and number of the model's weights."""
    parameters = sum(p.numel() for p in model.parameters())
    card = dataclasses.replace(card, weights=weights_hash(model.state_dict()), parameters=parameters)
    (Path(folder) / "README.md").write_text(model_card(contract, card), encoding="utf-8")


def copy_with_decode(source: str | Path, folder: str | Path, decode: Statistic) -> PolicyContract:
    """Copies an export. The copy's contract has another `decode`, and so another hash; the weights are the same bytes.

    Raises:
        UserError: `source` is no export that writes tokens, decodes so already, or would hold the folder; the folder is there and
            is no export; or no token of the contract is ordinal.
    """
    source, folder = Path(source), Path(folder)
    before = PolicyContract.load(source)
    if (source / "rl.json").is_file():
        raise UserError("a head writes no tokens", str(source), "--decode is for exports of `vla export`")
    if before.decode == decode:
        raise UserError(f"its contract says decode: {decode} already", str(source), "use it as it is")
    contract = with_statistic(before, decode)
    if folder.resolve().is_relative_to(source.resolve()):
        raise UserError("an export cannot be copied into itself", str(folder), "give another --out")
    card = source / "README.md"
    with _whole(folder) as unfinished:
        shutil.copytree(source, unfinished, dirs_exist_ok=True)
        contract.save(unfinished)
        if card.is_file():
            text = copied_card(card.read_text(encoding="utf-8"), before, contract)
            (unfinished / "README.md").write_text(text, encoding="utf-8")
    return contract


def check_export_folder(folder: str | Path, option: str = "--out") -> None:
    """Checks that an export can be written.

    Raises:
        UserError: the folder is there and is no export, or nothing can be written there.
    """
    folder = Path(folder)
    check_writable(folder, option)
    check_writable(folder.absolute().parent, option)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "contract.json").is_file():
        raise UserError("the folder is there and is no export", str(folder), "choose another")


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `folder`: it appears whole or not at all.

    Raises:
        UserError: the folder is there and is no export.
    """
    check_export_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield unfinished
        for path in unfinished.rglob("*"):
            # safetensors writes for the owner alone.
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    except SafetensorError as error:
        raise UserError(f"the weights cannot be written: {error}", str(folder), "free some space") from error
    except OSError as error:
        # Of a full disk, the system does not say what was being written.
        error.filename = error.filename or str(folder)
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def export(
    ckpt: str,
    out: str = "",
    merge_lora: bool = True,
    dtype: Dtype = "float32",
    alpha: float = 1.0,
    base: str = "",
    results: str = "",
    decode: StatisticOption = "",
    push: str = "",
    public: bool = False,
) -> str:
    """Exports a checkpoint of `vla fit` as a folder for `vla rollout` and `vla serve`, and uploads it to the hub if asked to.

    Args:
        ckpt: checkpoint file; or folder of an export, to copy with another `--decode`, or to `--push` as it is.
        out: folder to write; an earlier export there is replaced.
        merge_lora: merge adapters into the weights, in float32, and compare the logits before and after. Otherwise the export has
            the adapters alone, in peft's format, and names the model that they are added to, which is loaded with it.
        dtype: type of the exported weights; int8 applies to the language model's layers only. Types shorter than float32 may
            change answers, so evaluate again.
        alpha: 1 exports the trained weights, 0 those of the base; values between average them (WiSE-FT, Wortsman et al. 2022).
        base: the model that training started from (`tiny`, a folder or OWNER/NAME); needed for alpha below 1, and for adapters
            alone unless it came from the hub.
        results: folder of an evaluation of `vla rollout` or `vla evaluate`, for the model card. It is refused if another
            `execute` or decoding than the export's was evaluated.
        decode: the statistic of its distribution that an ordinal token takes, instead of the contract's: mode, median or
            local-mean.
        push: OWNER/NAME on the Hugging Face hub, to upload the export to. The repository is made if it is not there, private.
        public: make it public instead.
    """
    if public and not push:
        raise UserError("nothing is uploaded that could be public", "--public", "add --push OWNER/NAME")
    if not push:
        return _export(ckpt, out, merge_lora, dtype, alpha, base, results, decode)
    from vla.training.push import check_push, push_export

    if Path(ckpt).is_dir() and not out:
        return push_export(ckpt, push, public)
    check_push(push)
    written = _export(ckpt, out, merge_lora, dtype, alpha, base, results, decode)
    return f"{written}\n{push_export(out, push, public)}"


def _export(
    ckpt: str, out: str, merge_lora: bool, dtype: Dtype, alpha: float, base: str, results: str, decode: StatisticOption
) -> str:
    """Writes the folder; returns what was written."""
    from vla.checkpoint import assemble, read_checkpoint

    if not out:
        raise UserError("no folder is named for the export", "--out", "give one")
    check_export_folder(out)
    if Path(ckpt).is_dir():
        if not decode or (merge_lora, dtype, alpha, base, results) != (True, "float32", 1.0, "", ""):
            what = "only the decoding of an export can be changed"
            raise UserError(what, ckpt, "give --decode and --out alone, or give a checkpoint as --ckpt")
        contract = copy_with_decode(ckpt, out, decode)
        return f"{out}: a copy of {ckpt} that decodes by {decode}, contract {contract.hash[:12]}"
    if not 0 <= alpha <= 1 or (alpha < 1 and not base):
        raise UserError(f"alpha is {alpha}", "--alpha", "give 0 to 1, and --base for less than 1")
    checkpoint = read_checkpoint(ckpt)
    model, processor, contract = assemble(checkpoint, ckpt)
    contract = with_statistic(contract, decode) if decode else contract
    card = Card(**facts_of(ckpt, checkpoint, results, contract), dtype=dtype, alpha=alpha, base=base)
    adapted = None
    if not merge_lora and four_bit(checkpoint["state_dict"]):
        what = "the run's base weights are in 4 bits, and no model has them as floats: its adapters are of use only with them"
        raise UserError(what, ckpt, "leave --merge_lora on")
    if checkpoint.get("lora", {}).get("rank"):
        adapted = _with_adapters_apart(checkpoint, model)
        family = family_of(model, processor)
        difference = compare_merged(adapted, model, family, prompts(Encoder(contract, family)))
        digest = weights_hash(_without_adapters(adapted.state_dict()))
        card = dataclasses.replace(card, lora=checkpoint["lora"], merged_difference=difference, base_hash=digest)
    if not merge_lora:
        if adapted is None or dtype != "float32" or alpha < 1:
            what = "only adapters in float32 can be exported apart" if adapted is not None else "the checkpoint has no adapters"
            raise UserError(what, ckpt, "leave --merge_lora on")
        card = dataclasses.replace(card, base=_where(base or card.trained_from, ckpt), apart=True)
        return _written(write_export(out, model, processor, contract, card, adapted, _precision(checkpoint)), contract)
    if base:
        start = _base_weights(base)
        card = dataclasses.replace(card, base_hash=weights_hash(start))
        if alpha < 1:
            model.load_state_dict(interpolated(start, model.state_dict(), alpha))
    if dtype == "int8":
        to_int8(model.get_decoder())
        model.config.int8 = True
    else:
        model.to(getattr(torch, dtype))
    return _written(write_export(out, model, processor, contract, card), contract)


def _written(folder: Path, contract: PolicyContract) -> str:
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    return f"{folder}: {size:.1f} MiB, contract {contract.hash[:12]}"


def _where(base: str, ckpt: str) -> str:
    """The base as every working folder finds it."""
    if not base:
        raise UserError("the checkpoint does not say which model its adapters belong to", ckpt, "give --base, e.g. --base tiny")
    return str(Path(base).resolve()) if Path(base).is_dir() else hub.pinned_policy(base) if hub.policy_address(base) else base


def _precision(checkpoint: dict[str, Any]) -> str:
    """The type that a run with adapters had the model's own weights in; float32 if they are of several."""
    from vla.checkpoint import weights_of

    types = {value.dtype for value in _without_adapters(weights_of(checkpoint)).values() if value.is_floating_point()}
    return str(types.pop()).removeprefix("torch.") if len(types) == 1 else "float32"


def _with_adapters_apart(checkpoint: dict[str, Any], like: PreTrainedModel) -> PreTrainedModel:
    """The checkpoint's model, its adapters not merged."""
    from vla.checkpoint import weights_of

    bare = cast(torch.nn.Module, type(like)(like.config))
    adapted = add_lora(cast(PreTrainedModel, bare.to(dtype=like.dtype)), Lora(**checkpoint["lora"])).eval()
    adapted.load_state_dict(weights_of(checkpoint))
    return adapted


def prompts(encoder: Encoder) -> ModelInputs:
    """Two prompts for actions with images of noise: every adapter has its part in the answer."""
    embodiment, rng = encoder.contract.embodiment(), np.random.default_rng(0)
    examples = []
    for words in ("go", "pick up the red cube"):
        images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), np.uint8) for c in embodiment.cameras}
        examples.append(encoder.act(Observation("", images, rng.uniform(embodiment.state.low, embodiment.state.high), words)))
    return encoder.batch(examples).inputs


def compare_merged(adapted: PreTrainedModel, model: PreTrainedModel, family: ModelFamily, inputs: ModelInputs) -> float:
    """Returns how far merging adapters moved a logit, relative to the largest logit.

    Args:
        adapted: the model as it was trained, with adapters.
        model: with adapters merged.
        inputs: what both are given, as `prompts` makes it.

    Raises:
        UserError: the logits differ by more than `CLOSE`.
    """
    with torch.inference_mode():
        before, after = (family.score(m, inputs, inputs.attention).float() for m in (adapted, model))
    difference = float((before - after).abs().max() / before.abs().max().clamp_min(1e-6))
    if not difference <= CLOSE:
        raise UserError(f"merging the adapters changes logits by {difference:.2g} of the largest", "export", "please report this")
    return difference


def interpolated(base: Weights, trained: Weights, alpha: float) -> Weights:
    """base + alpha (trained - base), in float32.

    Raises:
        UserError: the two are not the same model's.
    """
    different = [n for n in trained if n not in base or base[n].shape != trained[n].shape] + [n for n in base if n not in trained]
    if different:
        raise UserError(
            f"the base has other weights: {', '.join(different[:3])}", "--base", "give the model that training began with"
        )
    return {
        name: torch.lerp(base[name].float(), value.float(), alpha).to(value.dtype) if value.is_floating_point() else value
        for name, value in trained.items()
    }


def _without_adapters(weights: Weights) -> Weights:
    """What peft's names hide: the weights of the model before adapters were added."""
    return {
        re.sub(r"(\.token_adapter)?\.base_layer\.|\.original_module\.", ".", name.removeprefix("base_model.model.")): value
        for name, value in weights.items()
        if not re.search(r"lora_|\.modules_to_save\.|\.trainable_tokens_delta\.", name)
    }


def _base_weights(base: str) -> Weights:
    from vla.models.load import load_vlm

    return load_vlm(base, dtype=torch.float32)[0].state_dict()

"""Loading a model and its processor by name or folder, and making small new ones."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import logging

import vla.models.openvla.model
import vla.models.openvla.processor  # noqa: F401  (these two register OpenVLA with transformers)
from vla import hub
from vla.errors import UserError
from vla.files import why_not_data
from vla.models.adapters import Base, base_of, check_peft, with_saved_adapters
from vla.models.families.find import family_class, trainable
from vla.models.four_bit import check_method, keep_layout
from vla.models.openvla.published import check_not_oft
from vla.models.ordinal_embeddings import ordinal_init
from vla.models.tiny.config import TinyVLMConfig
from vla.models.tiny.model import TinyVLM
from vla.models.tiny.processor import TinyVLMProcessor
from vla.models.tiny.reading import put_named_encoder
from vla.models.tiny.text import INTEGERS, LOCATIONS
from vla.models.weights import files_hash

SHIPPED = {
    "tiny": "configs/pretrain-tiny.yaml",
    "tiny-babyai": "configs/pretrain-babyai.yaml",
    "tiny-minilm": "configs/pretrain-minilm.yaml",
}
"""The models that come with the package, and the configuration that each was made with."""


def shipped_folder(name: str = "tiny") -> Path:
    """Returns the folder of a model that comes with the package."""
    return Path(str(resources.files("vla.models"))) / "pretrained" / name


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' table of missing and unexpected weights, which are named in an error."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_vlm(
    name: str | Path, trust_remote_code: bool = False, history: int = 0, strict: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Loads a vision-language model and its processor.

    Args:
        name: one of `SHIPPED` (with the package), a folder written by `save_pretrained`, or OWNER/NAME or
            OWNER/NAME@REVISION of a public model, which is fetched from the hub.
        trust_remote_code: whether code that comes with the weights may run.
        history: images per camera, for training; 0: as saved. If the model was saved with fewer, the embeddings of the images'
            ages are new.
        strict: whether weights that the model has not are refused. For training they always are.
        kwargs: arguments of the model's `from_pretrained` (dtype, device_map, ...).

    Raises:
        UserError: there is no model, it is not an image-text-to-text model, its weights are not those of its configuration, it
            needs code of its own, or it is to be trained and its family cannot be.
    """
    recipe = SHIPPED.get(str(name))
    if not recipe:
        # Before gigabytes of weights are fetched.
        check_not_oft(hub.local(name, hub.DESCRIPTIONS), str(name))
    patterns = (*hub.POLICY, "*.py") if trust_remote_code else hub.POLICY
    where = shipped_folder(str(name)) if recipe else hub.local(name, patterns)
    if recipe and not (Path(where) / "config.json").is_file():
        raise UserError(f"the pre-trained model `{name}` is not in this installation", str(where), f"run `vla fit -c {recipe}`")
    folder = Path(where)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError("no model found", str(name), "a model folder has config.json and *.safetensors")
    if not recipe:
        hub.weights_folder(name, patterns)
    if not folder.exists():
        raise UserError(
            "there is no such folder", str(folder), "name `tiny`, a model folder or a public image-text-to-text model"
        )
    base = base_of(folder)
    if base:
        return _with_adapters(base, folder, trust_remote_code, history, strict=strict, **kwargs)
    settings: dict[str, int] = {}
    model: PreTrainedModel | None = None
    try:
        if history:
            config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
            check_method(config, str(name))
            model_type = config.model_type
            settings = family_class(model_type).history_settings(model_type, history)
        options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, **settings, **kwargs}
        # What does not fit is named below; transformers would refer to a table that is not printed.
        options["ignore_mismatched_sizes"] = True
        with _silent():
            loaded = AutoModelForImageTextToText.from_pretrained(where, trust_remote_code=trust_remote_code, **options)
        model, info = cast(tuple[PreTrainedModel, dict[str, set[Any]]], loaded)
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=trust_remote_code)
    except ImportError as error:
        # A package that one kind of model alone needs: SmolVLM's processor writes numbers as words (num2words).
        why = next((line for line in str(error).splitlines() if line.strip()), "")
        what = f"the model needs a package that is not installed: {why}"
        raise UserError(what, str(name), "install it; vla[public] has num2words") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        pointers = (why for path in sorted(folder.glob("*.safetensors")) if (why := why_not_data(path)))
        why = next(pointers, "") or (_lacking(folder) if model is not None else "") or str(error).strip().splitlines()[0]
        if "custom code" in why:
            fix = "name a model whose code transformers has; many models are published so, too, with -hf in the name"
            if history and _model_type(folder) in trainable():
                fix = "read that code, then set model.trust_remote_code"
            raise UserError("the model needs code that comes with its weights", str(name), fix) from error
        raise UserError(
            f"cannot load the model: {why}", str(name), "name `tiny`, a model folder or a public image-text-to-text model"
        ) from error
    if info["mismatched_keys"]:
        key, there, expected = min(info["mismatched_keys"])
        what = f"{key} has shape {list(there)} where its config.json says {list(expected)}"
        raise UserError(what, str(where), "its config.json is another model's, or the weights are")
    may_be_missing = family_class(model.config.model_type).new_weights
    missing = sorted(name for name in info["missing_keys"] if not any(part in name for part in may_be_missing))
    if missing and recipe and all(name.startswith("text_encoder.") for name in missing):
        # An encoder of tens of millions of weights does not come with the package.
        put_named_encoder(cast(TinyVLM, model))
    elif missing:
        raise UserError(f"the weights lack {', '.join(missing[:5])}", str(where), "export or download the model again")
    # Names that transformers knows to be harmless, such as computed frequencies of positions, are not among these.
    if (history or strict) and info["unexpected_keys"]:
        some = ", ".join(sorted(info["unexpected_keys"])[:5])
        raise UserError(f"the weights have what the model has not: {some}", str(where), "its config.json is another model's")
    for setting, value in settings.items():
        setattr(processor, setting, value)
    keep_layout(model)
    return model.eval(), processor


def _model_type(folder: Path) -> str:
    """The type of model that a folder's configuration names, without loading it."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")


def _lacking(folder: Path) -> str:
    """What a folder of a model lacks of its processor; "" if nothing is seen."""
    if not any(path for name in ("tokenizer.*", "*.model", "vocab.*", "*.tiktoken") for path in folder.glob(name)):
        return "it has no tokenizer"
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        return "it has no preprocessor_config.json"
    return ""


def local_files_hash(name: str) -> str:
    """The hash of the weights' files of a model in a folder, or of a shipped one; "" for a model on the hub."""
    folder = shipped_folder(name) if name in SHIPPED else Path(name)
    return "" if hub.policy_address(name) else files_hash(sorted(folder.glob("*.safetensors")))


def _with_adapters(
    base: Base, folder: Path, trust_remote_code: bool, history: int, **kwargs: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The base of an export that was not merged, with the export's adapters merged into it, and the export's processor."""
    check_peft(str(folder))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    try:
        model, _ = load_vlm(base.model, trust_remote_code, history or getattr(config, "history", 0), **kwargs)
        if local_files_hash(base.model) != base.files:
            what = "its weights are not those that the adapters were trained on"
            raise UserError(what, base.model, "restore them, or export merged")
        model = with_saved_adapters(model, folder, config.get_text_config().vocab_size, base.dtype)
    except UserError as error:
        raise UserError(f"the adapters' base cannot be loaded: {error.what}", f"{folder}, {base.model}", error.fix) from error
    except (ValueError, RuntimeError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"the adapters are not those of {base.model}: {why}", str(folder), "export the run again") from error
    return model.eval(), AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)


def new_tiny(tokenizer: PreTrainedTokenizerBase, seed: int = 0, **config: Any) -> tuple[TinyVLM, TinyVLMProcessor]:
    """Makes a small model with random weights, and its processor.

    Args:
        tokenizer: made by `train_tokenizer` or `complete`; its integers and locations get ordinal embeddings.
        seed: seed of the weights.
        config: fields of `TinyVLMConfig`; entries of `text_config` override the defaults one by one.

    Raises:
        UserError: the tokenizer has no `<image>` token, or sizes do not fit together.
    """
    text = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **config.pop("text_config", {}),
    }
    known = tokenizer.get_vocab()
    if "<image>" not in known:
        raise UserError("the tokenizer has no <image> token", "new_tiny", "use one made by `train_tokenizer`")
    settings = TinyVLMConfig(text_config=cast(PreTrainedConfig, text), image_token_id=known["<image>"], **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyVLM(settings)
        # Image tokens have a standard deviation of 1. With the usual 0.02 for words, *where* questions learn slower (measured).
        weight = model.get_input_embeddings().weight
        torch.nn.init.normal_(weight, std=0.1)
    for turn, tokens in enumerate((INTEGERS, LOCATIONS)):
        if all(token in known for token in tokens):
            ordinal_init(weight, [known[token] for token in tokens], seed=seed + turn)
    return model.eval(), TinyVLMProcessor(tokenizer, settings.image_size, settings.image_tokens, settings.history)

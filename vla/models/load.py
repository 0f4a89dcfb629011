"""From a name or a folder to a model and its processor."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerBase

from vla.errors import UserError
from vla.models.families.find import family_class
from vla.models.tiny.config import TinyVLMConfig
from vla.models.tiny.model import TinyVLM
from vla.models.tiny.ordinal_embeddings import ordinal_init
from vla.models.tiny.processor import TinyVLMProcessor
from vla.models.tiny.text import INTEGERS, LOCATIONS

SHIPPED = {"tiny": "configs/pretrain-tiny.yaml", "tiny-babyai": "configs/pretrain-babyai.yaml"}
"""The models that come with the package, and how each was made."""


def shipped_folder(name: str = "tiny") -> Path:
    """Where the package keeps a model of its own."""
    return Path(str(resources.files("vla.models"))) / "pretrained" / name


def load_vlm(name: str | Path, trust_remote_code: bool = False, history: int = 0, **kwargs: Any) -> tuple[Any, Any]:
    """A vision-language model and its processor.

    Args:
        name: "tiny" or "tiny-babyai" (shipped with the package), a folder written by `save_pretrained`, or the name of a public
            model, which transformers downloads because the user named it.
        trust_remote_code: whether code that comes with the weights may run.
        history: images per camera, for training; 0 is as saved. What tells them apart is new where the model was saved with
            fewer.
        kwargs: to `from_pretrained` of the model (dtype, device_map, ...).

    Raises:
        UserError: nothing is there, it is no image-text-to-text model, or it is loaded for training and cannot be trained.
    """
    recipe = SHIPPED.get(str(name))
    where = shipped_folder(str(name)) if recipe else name
    if recipe and not (Path(where) / "config.json").is_file():
        raise UserError(f"the pre-trained model `{name}` is not in this installation", str(where), f"run `vla fit -c {recipe}`")
    folder = Path(where)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError("no model found", str(folder), "a model folder has config.json and *.safetensors")
    # The name of a public model is OWNER/NAME.
    if not folder.exists() and (folder.is_absolute() or len(folder.parts) > 2):
        raise UserError(
            "there is no such folder", str(folder), "name `tiny`, a model folder or a public image-text-to-text model"
        )
    settings: dict[str, int] = {}
    try:
        if history:
            kind = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code).model_type
            settings = family_class(kind).history_settings(kind, history)
        options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, **settings, **kwargs}
        loaded: Any = AutoModelForImageTextToText.from_pretrained(where, trust_remote_code=trust_remote_code, **options)
        model, found = loaded
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot load the model: {why}", str(name), "name `tiny`, a model folder or a public image-text-to-text model"
        ) from error
    may_be_new = family_class(model.config.model_type).new_weights
    missing = sorted(name for name in found["missing_keys"] if not any(part in name for part in may_be_new))
    if missing:
        raise UserError(f"the weights lack {', '.join(missing[:5])}", str(where), "export or download the model again")
    for setting, value in settings.items():
        setattr(processor, setting, value)
    return model.eval(), processor


def new_tiny(tokenizer: PreTrainedTokenizerBase, seed: int = 0, **config: Any) -> tuple[TinyVLM, TinyVLMProcessor]:
    """A small model with random weights for this tokenizer, and its processor.

    Args:
        tokenizer: one of `train_tokenizer`; integers and locations get ordinal embeddings where it has them.
        seed: of the weights.
        config: fields of `TinyVLMConfig`; `text_config` entries override the default's one by one.
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
    settings = TinyVLMConfig(text_config=text, image_token_id=known["<image>"], **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyVLM(settings)
        # Beside image tokens of size 1 the usual 0.02 makes words too faint: where-questions learn slower (measured).
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.1)  # type: ignore[arg-type]
    for turn, tokens in enumerate((INTEGERS, LOCATIONS)):
        if all(token in known for token in tokens):
            ordinal_init(model, [known[token] for token in tokens], seed=seed + turn)
    return model.eval(), TinyVLMProcessor(tokenizer, settings.image_size, settings.image_tokens, settings.history)

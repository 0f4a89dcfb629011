"""The specification of a small model, of random weights or of two pre-trained halves."""

from __future__ import annotations

import dataclasses
import difflib
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vla import hub
from vla.errors import UserError
from vla.fetched import ALIASES
from vla.language.encoders import load_encoder, token_ids
from vla.models.load import SHIPPED, load_vlm, new_tiny, shipped_folder
from vla.models.tiny.config import TinyVLMConfig
from vla.models.tiny.halves import load_language, put_language, put_small_vision, put_vision, vision_name
from vla.models.tiny.model import TinyVLM
from vla.models.tiny.processor import TinyVLMProcessor
from vla.models.tiny.reading import LIMIT, put_encoder
from vla.models.tiny.text import complete
from vla.models.weights import weights_hash


@dataclasses.dataclass
class VLMSpec:
    """A small vision-language model: a timm network, a projector and a causal language model, of random weights by default.

    Attributes:
        language_weights: a pre-trained language model, whose sizes and tokenizer are taken: smollm2 (see `vla models list`), a
            folder, a GGUF file, or OWNER/NAME of a public model. Its output layer must be that of its embeddings.
        vision_weights: pre-trained weights of the vision network: efficientnet-lite0, a file, OWNER/NAME, or a name of timm's
            own, such as resnet18.a1_in1k, which also say what network it is. Batch norms are frozen. Or a small model, tiny or an
            export of it: its whole vision part, with projector and positions, is mapped among the words of `language_weights`.
        text_encoder: a frozen encoder that reads the instruction or question in place of the language model's embeddings: minilm
            (all-MiniLM-L6-v2), a folder or a public name. Exports hold its weights.
        tokenizer: "tiny" (the shipped model's), "new" (trained on the simulator's words), a folder with a transformers tokenizer,
            or the name of a public one; integers, locations and `<image>` are added where it lacks them.
        text_config: settings of the language model (hidden_size, num_hidden_layers, …) that replace those of `tiny`. A model_type
            chooses another causal language model of transformers, all of whose sizes must then be given.
        vision_name: a timm network that supports `features_only`.
        vision_args: further arguments of the network; by default those of `tiny` for resnet10t, and none for others.
        stride: image pixels per side of a feature map cell; the network must have a feature map of that stride.
        image_size: side of the square to which images are resized, in pixels.
        pools: one per camera, cells per side that are averaged into one token; by default 1 for the first camera and 2 for the
            others.
        prefix: whether attention within the prompt is bidirectional or causal; auto: causal with pre-trained language weights,
            which have seen nothing else, and bidirectional without.
        seed: seed of the weights.
    """

    tokenizer: str = "tiny"
    text_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    vision_name: str = TinyVLMConfig.vision_name
    vision_args: dict[str, Any] | None = None
    stride: int = TinyVLMConfig.stride
    image_size: int = TinyVLMConfig.image_size
    pools: list[int] | None = None
    prefix: Literal["auto", "bidirectional", "causal"] = "auto"
    seed: int = 0
    language_weights: str = ""
    vision_weights: str = ""
    text_encoder: str = ""

    def make(
        self, new_tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None, history: int = 1, cameras: int = 2
    ) -> tuple[TinyVLM, TinyVLMProcessor]:
        """Makes the model and its processor.

        Args:
            new_tokenizer: makes the tokenizer named "new".
            history: images per camera.
            cameras: number of cameras.

        Raises:
            UserError: the tokenizer or network does not exist, or sizes do not fit together.
        """
        check_text_config(self.text_config)
        others = ("tokenizer", *HALVES)
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in others}
        settings["pools"] = self.pools or [1] + [2] * (cameras - 1)
        if self.prefix == "auto":
            settings["prefix"] = "causal" if self.language_weights else "bidirectional"
        small = self._small_vision(settings)
        if small:
            settings |= _vision_settings(cast(TinyVLMConfig, small[0].config))
        elif self.vision_weights:
            settings |= {"vision_name": vision_name(self.vision_weights, self.vision_name), "frozen_norm": True}
        language = None
        if self.language_weights:
            language, tokenizer = self._language()
            own = min(len(tokenizer), language.config.vocab_size)
            settings |= {"own_words": own, "text_config": _sizes(language, complete(tokenizer))}
        else:
            tokenizer = self._tokenizer(new_tokenizer)
        reader = load_encoder(self.text_encoder) if self.text_encoder else None
        if reader:
            settings |= _encoder_settings(self.text_encoder, *reader)
        try:
            model, processor = new_tiny(tokenizer, history=history, **settings)
        except (ValueError, RuntimeError, TypeError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
            why = textwrap.shorten(str(error), 300)
            raise UserError(
                f"no model can be made: {why}", "model.vlm", "check its vision_name, vision_args and text_config"
            ) from error

        if language is not None:
            put_language(model, language, tokenizer.get_vocab(), self.seed)
        if small:
            put_small_vision(model, small[0], small[1].tokenizer.get_vocab(), tokenizer.get_vocab(), self.seed)
        elif self.vision_weights:
            put_vision(model, self.vision_weights)
        if reader:
            put_encoder(model, reader[0])
            processor.reads, processor.reader = True, reader[1]
        return model, processor

    def _small_vision(self, settings: dict[str, Any]) -> tuple[TinyVLM, TinyVLMProcessor] | None:
        """The small model whose vision part is taken, if `vision_weights` name one."""
        remote = hub.policy_address(self.vision_weights)
        file = hub.local(self.vision_weights, hub.DESCRIPTIONS) / "config.json"
        if self.vision_weights not in SHIPPED and not (self.vision_weights and file.is_file()):
            return None
        if remote and "model_type" not in json.loads(file.read_text(encoding="utf-8")):
            # A network of timm's has a configuration of timm's.
            return None
        if not self.language_weights:
            raise UserError(
                "a small model's vision part is for another language model", "model.vlm.vision_weights", "give language_weights"
            )
        model, processor = load_vlm(self.vision_weights)
        if not isinstance(model, TinyVLM):
            raise UserError("not a small model of ours", self.vision_weights, "name tiny, or an export of it")
        if len(model.config.pools) != len(settings["pools"]):
            what = f"it sees {len(model.config.pools)} cameras, the data have {len(settings['pools'])}"
            raise UserError(what, "model.vlm.vision_weights", "give a model with as many cameras")
        return model, cast(TinyVLMProcessor, processor)

    def _language(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The pre-trained language model and its tokenizer."""
        for name in ("tokenizer", "text_config"):
            if getattr(self, name) != getattr(VLMSpec(), name):
                raise UserError(f"{name} is that of the language weights", f"model.vlm.{name}", "leave it out")
        return load_language(self.language_weights)

    def _tokenizer(self, new_tokenizer: Callable[[], PreTrainedTokenizerBase] | None) -> PreTrainedTokenizerBase:
        if self.tokenizer == "new":
            if new_tokenizer is None:
                raise UserError("there is no corpus for a new tokenizer", "model.vlm", "name a tokenizer")
            return new_tokenizer()
        where = str(shipped_folder() if self.tokenizer == "tiny" else hub.local(self.tokenizer, TOKENIZER))
        try:
            return complete(AutoTokenizer.from_pretrained(where))
        except (OSError, ValueError) as error:
            why = str(error).strip().splitlines()[0]
            raise UserError(
                f"cannot load the tokenizer: {why}", self.tokenizer, "name tiny, new, a folder or a public tokenizer"
            ) from error


def _vision_settings(config: TinyVLMConfig) -> dict[str, Any]:
    """The settings of a small model's vision part."""
    names = ("vision_name", "vision_args", "stride", "image_size", "pools", "frozen_norm")
    return {
        **{name: getattr(config, name) for name in names},
        "vision_width": config.vision_width or config.text_config.hidden_size,
    }


TOKENIZER = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""The files of a tokenizer."""
HALVES = ("language_weights", "vision_weights", "text_encoder")
"""Fields of a specification that name pre-trained weights."""


def _sizes(language: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The language model's configuration, with room for the tokenizer's words."""
    config = _plain(language.config)
    rows = max(len(tokenizer), config["vocab_size"])
    return {**config, "vocab_size": rows, "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": True}


def _plain(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration without what is of its file and not of the model."""
    of_file = ("architectures", "dtype", "quantization_config", "transformers_version", "_name_or_path")
    return {name: value for name, value in config.to_dict().items() if name not in of_file}


def _encoder_settings(name: str, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The settings of a model with this text encoder."""
    # With the weights' hash no revision is needed.
    remote = hub.policy_address(name)
    title = f"{ALIASES.get(name, Path(remote.repo if remote else name).name)} {weights_hash(encoder.state_dict())[:12]}"
    first = token_ids(tokenizer, "", LIMIT)[0]
    return {"encoder_config": _plain(encoder.config), "text_encoder": title, "first_id": first}


def check_text_config(text: dict[str, Any]) -> None:
    """Checks that every setting of a language model has an effect.

    Raises:
        UserError: the output layer is to have weights of its own, or the model's configuration has no such setting.
    """
    if text.get("tie_word_embeddings") is False:
        raise UserError(
            "the output layer is always that of the embeddings", "model.vlm.text_config.tie_word_embeddings", "leave it out"
        )
    try:
        config = TinyVLMConfig(text_config=cast(PreTrainedConfig, text)).text_config
    except (ValueError, TypeError, StrictDataclassError):
        return  # the model says what is wrong with it
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    # transformers keeps what it does not know, and has translated older names.
    for name in text.keys() & vars(config).keys() - set(known):
        fix = f"it has {', '.join(difflib.get_close_matches(name, known) or known)}"
        raise UserError(f"{config.model_type} has no setting {name}", "model.vlm.text_config", fix)


SHORT = {"scratch": VLMSpec("tiny"), "new": VLMSpec("new")}
"""Short names of specifications with the architecture of `tiny` and random weights."""

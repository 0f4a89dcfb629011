"""Promptable representations (PR2L): states of a frozen vision-language model as it reads an observation and answers a prompt.

Chen, Mees, Kumar, Levine 2024, "Vision-Language Models Provide Promptable Representations for Reinforcement Learning"
(arXiv 2402.02651).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import torch
from einops import rearrange
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from vla.contract import Statistic
from vla.errors import UserError
from vla.models.decoding.allowed import Ordinal
from vla.models.decoding.choose import likeliest
from vla.models.decoding.session import DecodingSession
from vla.models.families.base import Images
from vla.models.families.find import family_of
from vla.models.weights import weights_hash
from vla.promptable.layers import Capture, Choice, blocks, chosen_layers
from vla.promptable.prompts import PromptTemplate
from vla.promptable.reading import reading_hash
from vla.tokenization.vocabulary import ordered_ids


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a representation. All of them influence the states, so all of them are part of a cache's key.

    Attributes:
        tokens: number of tokens that are written greedily after every prompt, without end tokens; 0: none.
        decode: statistic of written integer and location tokens; other words are the likeliest.
        image, prompt: whether the states of image tokens and of the prompt's text are kept.
        layers: the layers whose states are kept; see `layers.Choice`.
        words: maximum length of a prompt's text, in tokens.
        batch: rows per call of the model. Every call is padded to it, because another shape changes the last digits.
        dtype: type of the states, "float16" or "float32".
        image_tokens: number of image tokens of an observation; 0: the model's processor gives it.
        chat: whether to put the prompt into the model's chat template.
    """

    tokens: int = 8
    image: bool = True
    prompt: bool = True
    layers: Choice = "last-two"
    words: int = 32
    batch: int = 8
    dtype: str = "float16"
    image_tokens: int = 0
    chat: bool = False
    decode: Statistic = "mode"

    def __post_init__(self) -> None:
        if min(self.tokens, self.image_tokens) < 0 or min(self.words, self.batch) < 1:
            raise UserError(f"{self}", "representation", "give positive numbers; tokens and image_tokens may be 0")
        if not (self.tokens or self.image or self.prompt):
            raise UserError("no tokens are kept", "representation", "keep image or prompt tokens, or write some")
        if self.dtype not in ("float16", "float32"):
            raise UserError(f"dtype {self.dtype!r}", "representation", "float16 or float32")
        if self.decode not in get_args(Statistic):
            raise UserError(f"decode {self.decode!r}", "representation", f"one of {', '.join(get_args(Statistic))}")

    def identity(self) -> dict[str, Any]:
        """Returns the settings for a cache's key. The default of `decode`, added later, is left out: older caches stay valid."""
        return {name: value for name, value in dataclasses.asdict(self).items() if (name, value) != ("decode", "mode")}


@dataclasses.dataclass(frozen=True)
class States:
    """A batch of representations.

    Attributes:
        tokens: [B, L, D] states of image and prompt tokens, zero padding and written tokens, in this order. The layers of a
            token are adjacent.
        padding: [B, L] bool, True is padding, as in torch's key-padding masks.
        written: [B, N] ids of the written tokens.
    """

    tokens: torch.Tensor
    padding: torch.Tensor
    written: torch.Tensor


def check_observations(images: Sequence[Images], fields: Sequence[Mapping[str, str]]) -> None:
    """Raises UserError unless all observations have the same number of images, at least one, and each has its fields."""
    counts = [len(observation) for observation in images]
    if len(set(counts)) > 1 or len(images) != len(fields) or not counts or not counts[0]:
        raise UserError(
            f"observations with {counts} images and {len(fields)} sets of fields",
            "representation",
            "give every observation the same number of images, at least one, and its fields",
        )


class PromptableRepresentation:
    """Encodes observations by a frozen model, which is put into evaluation mode without gradients.

    Args:
        model, processor: as `vla.models.load.load_vlm` returns them.
        prompt: the prompt.
        settings: which states are computed and kept.

    Attributes:
        layers: the layers whose states are kept.
        shape: (L, D) of every observation's tokens.
        identity: everything but observation and prompt that decides the states, as a JSON object.

    Raises:
        UserError: the model does not write token by token, or the settings do not fit it.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, prompt: PromptTemplate, settings: Settings | None = None
    ):
        self.settings, self.prompt = settings or Settings(), prompt
        self.tokenizer = cast(PreTrainedTokenizerBase, getattr(processor, "tokenizer", processor))
        self.model = model.eval().requires_grad_(False)
        self._family = family_of(self.model, processor, self.settings.image_tokens, self.settings.chat)
        self._decoder = self._family.decoder(self.model)
        self._end_ids = self._family.end_ids(self.model)
        self.layers = chosen_layers(self.settings.layers, len(blocks(self._decoder)))
        self._ordinals = _ordinals(self.model, self.tokenizer, self.settings.decode)
        self._length = self._family.image_tokens + self.settings.words
        self._kept = self.settings.image * self._family.image_tokens + self.settings.prompt * self.settings.words
        width = self.model.config.get_text_config().hidden_size
        self.shape = ((self._kept + self.settings.tokens) * len(self.layers), width)
        self.identity = {
            "model": weights_hash(self.model.state_dict()),
            "reads": reading_hash(self.model, processor),
            "computes": str(self.model.dtype).removeprefix("torch."),
            **self.settings.identity(),
        }

    def at(self, batch: int) -> PromptableRepresentation:
        """Returns the same representation for calls of another batch size."""
        other = copy.copy(self)
        other.settings = dataclasses.replace(self.settings, batch=batch)
        other.identity = {**self.identity, "batch": batch}
        return other

    def question(self, fields: Mapping[str, str]) -> str:
        """Returns the filled-in prompt. Raises UserError if a field is missing."""
        return self.prompt.fill(fields)

    def __call__(self, images: Sequence[Images], fields: Sequence[Mapping[str, str]]) -> States:
        """Computes the states of observations.

        Args:
            images: the images of each observation, uint8 [H, W, 3]; all observations have the same number.
            fields: the values of the prompt's fields, for each observation.

        Raises:
            UserError: observations have different numbers of images, a field is unknown, or a prompt is too long.
        """
        check_observations(images, fields)
        texts, size = [self.question(values) for values in fields], self.settings.batch
        parts = [self._compute(images[i : i + size], texts[i : i + size]) for i in range(0, len(texts), size)]
        return States(*(torch.cat([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(States)))

    def answers(self, written: torch.Tensor) -> list[str]:
        """Decodes written ids [B, N]. As end tokens are never written, a text goes on after the answer."""
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in written.tolist()]

    @torch.inference_mode()
    def _compute(self, images: Sequence[Images], texts: Sequence[str]) -> States:
        rows, short = len(texts), self.settings.batch - len(texts)
        # Rows that fill the declared shape are computed and dropped.
        inputs = self._family.prompts([*images, *[images[0]] * short], [*texts, *[texts[0]] * short], self._length)
        with Capture(self._decoder, self.layers) as capture:
            session = self._family.session(self.model, inputs, show=capture.keep)
            written = self._write(session, capture)
            prompts = torch.stack([capture.states[layer][0] for layer in self.layers], 2)
            ids, attention = inputs.ids.to(prompts.device), inputs.attention.to(prompts.device).bool()
            tokens, padding = self._pack(prompts, ids, attention)
            if self.settings.tokens:
                # The last token has been written, but not read.
                with capture.until_deepest():
                    session.read(written[:, -1:], written[0, :1])
                answer = [torch.cat(capture.states[layer][1:], 1) for layer in self.layers]
                tokens = torch.cat([tokens, torch.stack(answer, 2)], 1)
                padding = torch.cat([padding, torch.zeros_like(written, dtype=torch.bool)], 1)
        tokens = rearrange(tokens, "b t layer d -> b (t layer) d").to(getattr(torch, self.settings.dtype))
        padding = padding.repeat_interleave(len(self.layers), 1)
        return States(tokens[:rows].cpu(), padding[:rows].cpu(), written[:rows].cpu())

    def _write(self, session: DecodingSession, capture: Capture) -> torch.Tensor:
        """Reads the prompts and writes answers without end tokens. Returns ids [B, N]."""
        empty = torch.empty(session.rows, 0, dtype=torch.long, device=session.device)
        if not self.settings.tokens:
            with capture.until_deepest():
                session.read(empty, torch.zeros(1, dtype=torch.long, device=session.device))
            return empty
        written = empty
        for _ in range(self.settings.tokens):
            logits = session.read(written[:, -1:], None)[:, -1].float()
            logits[:, self._end_ids] = -torch.inf
            written = torch.cat([written, likeliest(logits, self._ordinals)[:, None]], 1)
        return written

    def _pack(self, states: torch.Tensor, ids: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Selects the states to be kept among [B, P, layers, D], packed to the left. Returns them and their padding [B, P]."""
        image = ids == self._family.image_id
        keep = real & ((image & self.settings.image) | (~image & self.settings.prompt))
        order = (~keep).long().argsort(dim=1, stable=True)[:, : self._kept]
        padding = ~keep.gather(1, order)
        packed = states.gather(1, order[:, :, None, None].expand(-1, -1, *states.shape[2:]))
        packed = packed.masked_fill(padding[:, :, None, None], 0.0)
        room = self._kept - order.shape[1]
        return functional.pad(packed, (0, 0, 0, 0, 0, room)), functional.pad(padding, (0, room), value=True)


def _ordinals(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decode: Statistic) -> tuple[Ordinal, ...]:
    """Returns integer and location tokens, for a statistic other than the mode. Raises UserError if there are none."""
    if decode == "mode":
        return ()
    id_lists = [ids for ids in ordered_ids(tokenizer.get_vocab()) if ids]
    if not id_lists:
        raise UserError(f"decode {decode} with a tokenizer without integers and locations", "representation", "set decode: mode")
    return tuple(Ordinal(torch.tensor(ids, device=model.device), decode) for ids in id_lists)

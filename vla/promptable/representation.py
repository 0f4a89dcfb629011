"""PR2L's state: what a frozen vision-language model computes while it reads an observation and a question and writes an answer.

Chen, Mees, Kumar, Levine 2024, "Vision-Language Models Provide Promptable Representations for Reinforcement Learning"
(arXiv 2402.02651).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from einops import rearrange
from torch.nn import functional

from vla.contract import Statistic
from vla.errors import UserError
from vla.models.decoding.allowed import Ordinal
from vla.models.decoding.choose import likeliest
from vla.models.decoding.session import DecodingSession
from vla.models.families.base import Images
from vla.models.families.find import family_of
from vla.models.weights import weights_hash
from vla.promptable.layers import Capture, Choice, chosen_layers
from vla.promptable.prompts import PromptTemplate
from vla.promptable.reading import reading_hash
from vla.tokenization.vocabulary import ordered_ids


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the representation is made of; all of it decides the states, so all of it belongs to a cache's key.

    Attributes:
        tokens: written to every prompt, greedily, exactly so many: an answer that would end goes on. 0 writes none.
        decode: statistic of written integer and location tokens; all other words are the likeliest.
        image, prompt: whether the states of image tokens, and of the prompt's words, are kept.
        layers: which states; see `layers.Choice`.
        words: room for a prompt's words, in tokens.
        batch: rows per call of the model. Other shapes give other last digits, so every call is padded to this one.
        dtype: of the states that come out, "float16" or "float32".
        image_tokens: of an observation's pictures; 0: the model's processor says.
        chat: put the prompt into the model's chat template.
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
            raise UserError(f"{self}", "representation", "numbers are positive; tokens and image_tokens may be 0")
        if not (self.tokens or self.image or self.prompt):
            raise UserError("no tokens are kept", "representation", "keep image or prompt tokens, or write some")
        if self.dtype not in ("float16", "float32"):
            raise UserError(f"dtype {self.dtype!r}", "representation", "float16 or float32")
        if self.decode not in get_args(Statistic):
            raise UserError(f"decode {self.decode!r}", "representation", f"one of {', '.join(get_args(Statistic))}")

    def identity(self) -> dict[str, Any]:
        """The settings as a cache's key holds them: `decode`, which came later, only where it is not the mode."""
        return {name: value for name, value in dataclasses.asdict(self).items() if (name, value) != ("decode", "mode")}


@dataclasses.dataclass(frozen=True)
class States:
    """A batch of representations.

    Attributes:
        tokens: [B, L, D]: image and prompt tokens as they stand, padding, written tokens; of each token its layers one after the
            other. Zero where there is padding.
        padding: [B, L] bool, True is padding, as torch's key-padding masks have it.
        written: [B, N] ids of the answer.
    """

    tokens: torch.Tensor
    padding: torch.Tensor
    written: torch.Tensor


def check_observations(images: Sequence[Images], fields: Sequence[Mapping[str, str]]) -> None:
    """Raises UserError where observations have unequal numbers of pictures, or none, or not each its fields."""
    counts = [len(pictures) for pictures in images]
    if len(set(counts)) > 1 or len(images) != len(fields) or not counts or not counts[0]:
        raise UserError(
            f"observations with {counts} pictures and {len(fields)} sets of fields",
            "representation",
            "give every observation as many pictures, one at least, and its fields",
        )


class PromptableRepresentation:
    """A frozen model as an observation's encoder. The model is put into evaluation mode and its gradients are switched off.

    Args:
        model, processor: as `vla.models.load.load_vlm` gives them.
        prompt: the question.
        settings: what of the model's states is kept.

    Attributes:
        layers: the layers whose states are kept.
        shape: (L, D) of every observation's tokens.
        identity: what decides the states beside observation and filled-in prompt, as JSON holds it.

    Raises:
        UserError: the model cannot write, or the settings contradict one another.
    """

    def __init__(self, model: Any, processor: Any, prompt: PromptTemplate, settings: Settings | None = None):
        self.settings, self.prompt, self.processor = settings or Settings(), prompt, processor
        self.model = model.eval().requires_grad_(False)
        self._family = family_of(self.model, processor, self.settings.image_tokens, self.settings.chat)
        self._decoder: Any = self._family.decoder(self.model)
        self._end_ids = self._family.end_ids(self.model)
        self.layers = chosen_layers(self.settings.layers, len(self._decoder.layers))
        self._ordinals = _ordinals(self.model, getattr(processor, "tokenizer", processor), self.settings.decode)
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
        """The same with another declared shape."""
        other = copy.copy(self)
        other.settings = dataclasses.replace(self.settings, batch=batch)
        other.identity = {**self.identity, "batch": batch}
        return other

    def question(self, fields: Mapping[str, str]) -> str:
        """The prompt as it is asked; UserError where a field is not filled."""
        return self.prompt.fill(fields)

    def __call__(self, images: Sequence[Images], fields: Sequence[Mapping[str, str]]) -> States:
        """The states of observations.

        Args:
            images: of each its pictures, uint8 [H, W, 3], of all equally many.
            fields: what fills the prompt's fields.

        Raises:
            UserError: unequal numbers of pictures, an unknown field, a prompt with more words than there is room for.
        """
        check_observations(images, fields)
        texts, size = [self.question(one) for one in fields], self.settings.batch
        done = [self._compute(images[i : i + size], texts[i : i + size]) for i in range(0, len(texts), size)]
        return States(*(torch.cat([getattr(part, f.name) for part in done]) for f in dataclasses.fields(States)))

    def answers(self, written: torch.Tensor) -> list[str]:
        """Written ids [B, N] as words; the answer comes first, then what a model writes that is not let stop."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in written.tolist()]

    @torch.inference_mode()
    def _compute(self, images: Sequence[Images], texts: Sequence[str]) -> States:
        rows, short = len(texts), self.settings.batch - len(texts)
        # What fills the declared shape is computed and thrown away.
        inputs = self._family.prompts([*images, *[images[0]] * short], [*texts, *[texts[0]] * short], self._length)
        with Capture(self._decoder, self.layers) as seen:
            session = self._family.session(self.model, inputs, show=seen.keep)
            written = self._write(session, seen)
            prompts = torch.stack([seen.states[layer][0] for layer in self.layers], 2)
            ids, attention = inputs.ids.to(prompts.device), inputs.attention.to(prompts.device).bool()
            tokens, padding = self._choose(prompts, ids, attention)
            if self.settings.tokens:
                # The last word has been chosen, not read.
                with seen.until_deepest():
                    session.read(written[:, -1:], written[0, :1])
                answer = [torch.cat(seen.states[layer][1:], 1) for layer in self.layers]
                tokens = torch.cat([tokens, torch.stack(answer, 2)], 1)
                padding = torch.cat([padding, torch.zeros_like(written, dtype=torch.bool)], 1)
        tokens = rearrange(tokens, "b t layer d -> b (t layer) d").to(getattr(torch, self.settings.dtype))
        padding = padding.repeat_interleave(len(self.layers), 1)
        return States(tokens[:rows].cpu(), padding[:rows].cpu(), written[:rows].cpu())

    def _write(self, session: DecodingSession, seen: Capture) -> torch.Tensor:
        """Reads the prompts and writes to them, never an end mark; ids [B, N]."""
        empty = torch.empty(session.rows, 0, dtype=torch.long, device=session.device)
        if not self.settings.tokens:
            with seen.until_deepest():
                session.read(empty, torch.zeros(1, dtype=torch.long, device=session.device))
            return empty
        written = empty
        for _ in range(self.settings.tokens):
            logits = session.read(written[:, -1:], None)[:, -1].float()
            logits[:, self._end_ids] = -torch.inf
            written = torch.cat([written, likeliest(logits, self._ordinals)[:, None]], 1)
        return written

    def _choose(self, states: torch.Tensor, ids: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of prompts' states [B, P, layers, D] those that are kept, packed to the left; and where there is padding."""
        image = ids == self._family.image_id
        keep = real & ((image & self.settings.image) | (~image & self.settings.prompt))
        order = (~keep).long().argsort(dim=1, stable=True)[:, : self._kept]
        padding = ~keep.gather(1, order)
        packed = states.gather(1, order[:, :, None, None].expand(-1, -1, *states.shape[2:]))
        packed = packed.masked_fill(padding[:, :, None, None], 0.0)
        room = self._kept - order.shape[1]
        return functional.pad(packed, (0, 0, 0, 0, 0, room)), functional.pad(padding, (0, room), value=True)


def _ordinals(model: Any, tokenizer: Any, decode: Statistic) -> tuple[Ordinal, ...]:
    """The integer and the location tokens, for another statistic than the mode; UserError: the tokenizer has neither."""
    if decode == "mode":
        return ()
    lists = [ids for ids in ordered_ids(tokenizer) if ids]
    if not lists:
        raise UserError(f"decode {decode}, and a tokenizer without integers and locations", "representation", "decode: mode")
    return tuple(Ordinal(torch.tensor(ids, device=model.device), decode) for ids in lists)

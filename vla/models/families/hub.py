"""What image-text-to-text models of transformers have in common. A family of its own trains them; others are only decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_utils import ChannelDimension

from vla.errors import UserError
from vla.models.attention import additive, visible
from vla.models.decoding.kv_cache import Show
from vla.models.decoding.session import FastSteps
from vla.models.families.base import Images, OptionalImages, PromptFrame, Size, check_length
from vla.models.families.hub_session import HubModel, HubSession, core, logits_of
from vla.models.inputs import BLOCK, PREFIX, ModelInputs


class HubProcessor(Protocol):
    """A processor of transformers for images and text."""

    image_token: str
    image_processor: Any

    def __call__(self, *, text: list[str], images: list[list[np.ndarray]], **options: object) -> Mapping[str, Any]: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], *, add_generation_prompt: bool) -> str: ...


class HubFamily:
    """The `ModelFamily` of an image-text-to-text model of transformers, which can be decoded; its subclasses can be trained, too.

    A missing image takes no tokens. The language model is causal unless a subclass says otherwise, so several questions may
    branch off the same images.

    Args:
        processor: the model's processor.
        config: the model's configuration.
        image_tokens: number of image tokens of one observation; 0: the processor's `image_seq_length`.
        chat: whether to put the prompt into the chat template, as the user's turn.

    Attributes:
        one_tile: settings of the image processor that switch the splitting of images off.
        branches: whether the model's attention allows several prompts to branch off the same images. If not, each is computed by
            itself.
    """

    new_weights = ()
    words = None
    text_encoder = ""
    one_tile: ClassVar[dict[str, Any]] = {}
    branches: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def __init__(self, processor: HubProcessor, config: PreTrainedConfig, image_tokens: int = 0, chat: bool = False):
        self.processor, self.chat = processor, chat
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.image_id, self._image_tokens = config.image_token_id, image_tokens
        text = config.get_text_config()
        self.window: int = (getattr(text, "sliding_window", None) or 0) if _slides(text) else 0
        self.context: int = getattr(text, "max_position_embeddings", 0)
        self._ids: dict[Size, list[int]] = {}

    @classmethod
    def history_settings(cls, model_type: str, history: int) -> dict[str, int]:
        if not cls.trains:
            raise _untrainable(f"a model of type {model_type}")
        return {}

    @property
    def image_text(self) -> str:
        """The text that stands for an image in a prompt, as the chat template writes it."""
        return self.processor.image_token

    @property
    def frame(self) -> PromptFrame:
        """The tokens that the tokenizer puts before a text."""
        with_special, without = (self.tokenizer("x", add_special_tokens=special)["input_ids"] for special in (True, False))
        return PromptFrame(before=tuple(with_special[: len(with_special) - len(without)]))

    @property
    def image_tokens(self) -> int:
        count = self._image_tokens or getattr(self.processor, "image_seq_length", 0)
        if not count:
            raise UserError("the processor does not give the number of tokens of an image", "representation", "set image_tokens")
        return count

    def image_ids(self, sizes: Sequence[Size | None]) -> list[list[int]]:
        return [[] if size is None else self._of_size(size) for size in sizes]

    def _of_size(self, size: Size) -> list[int]:
        """The ids of an image of this size: what the processor makes of its text."""
        if size not in self._ids:
            made = self.processor(
                text=[self.image_text],
                images=[[np.zeros((*size, 3), np.uint8)]],
                add_special_tokens=False,
                input_data_format=ChannelDimension.LAST,
                **self.one_tile,
            )
            self._ids[size] = [int(i) for i in made["input_ids"][0]]
        return self._ids[size]

    def images(self, samples: Sequence[OptionalImages]) -> Mapping[str, torch.Tensor]:
        shown = [[image for image in images if image is not None] for images in samples]
        for image in (image for images in shown for image in images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise UserError(f"an image of shape {image.shape} and type {image.dtype}", "observation", "uint8 [H, W, 3]")
        made = self.processor.image_processor(
            self._arranged(shown), return_tensors="pt", input_data_format=ChannelDimension.LAST, **self.one_tile
        )
        return self._chosen(dict(made))

    def _arranged(self, shown: list[list[np.ndarray]]) -> list[Any]:
        """The images as the image processor takes them: one after the other."""
        return [image for images in shown for image in images]

    def _chosen(self, made: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The arguments of the model among what the image processor gives."""
        return {"pixel_values": made["pixel_values"]}

    def prompts(self, images: Sequence[Images], texts: Sequence[str], length: int) -> ModelInputs:
        wrapped = [self._wrap(text, len(shown)) for text, shown in zip(texts, images, strict=True)]
        options = {"padding": "max_length", "max_length": length, "padding_side": "left", "return_tensors": "pt"}
        try:
            encoded = dict(self.processor(text=wrapped, images=[list(shown) for shown in images], **options))
        except ValueError:
            # Prompts of unequal lengths that are longer than the room make no tensor.
            alone = [self.processor(text=[one], images=[list(shown)]) for one, shown in zip(wrapped, images, strict=True)]
            self._check_prompts([made["input_ids"][0] for made in alone], texts, length)
            raise
        # Some processors add labels.
        encoded.pop("labels", None)
        ids, attention = encoded.pop("input_ids"), encoded.pop("attention_mask")
        self._check_prompts(ids.tolist(), texts, length)
        return ModelInputs(ids, attention, encoded)

    def _check_prompts(self, rows: Sequence[Sequence[int]], texts: Sequence[str], length: int) -> None:
        """Raises UserError if a prompt has another number of image tokens than was set, or more tokens than there is room for."""
        for row, text in zip(rows, texts, strict=True):
            tokens = sum(i == self.image_id for i in row)
            if tokens != self.image_tokens:
                raise UserError(f"a prompt has {tokens} image tokens", "representation", f"set image_tokens: {tokens}")
            check_length(len(row), length, text)

    def _wrap(self, text: str, images: int) -> str:
        """Adds the image placeholders, and the chat template if set, to a prompt."""
        if not self.chat:
            return self.processor.image_token * images + text
        content = [*[{"type": "image"}] * images, {"type": "text", "text": text}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def score(self, model: HubModel, inputs: ModelInputs, positions: torch.Tensor) -> torch.Tensor:
        if not self.trains:
            raise _untrainable(f"a {type(model).__name__}")
        self._check_context(inputs)
        many = inputs.branch is not None and int(inputs.branch.max()) > 1
        if many and not (self.branches and self._sees_all(inputs)):
            inputs, positions = self._each_branch(inputs, positions)
            many = False
        blanks = inputs.group is not None and bool((inputs.group == BLOCK).any())
        if blanks and self.window:
            fix = "write a causal block, or token by token"
            raise UserError("a bidirectional block needs layers that do not see a window only", "contract.block", fix)
        fed = self._fed(model, inputs)
        if many or blanks:
            fed["position_ids"] = self._positions(model, inputs)
            fed["attention_mask"] = self._mask(inputs, core(model).dtype)
        hidden = core(model).model(**fed, use_cache=False).last_hidden_state
        return logits_of(model, hidden[positions])

    def _check_context(self, inputs: ModelInputs) -> None:
        """Raises UserError if a sequence is longer than what the model was made for."""
        longest = int(inputs.attention.sum(1).max())
        if self.context and longest > self.context:
            fix = "give smaller or fewer images, a shorter history or a shorter prompt"
            raise UserError(f"a sequence has {longest} tokens, the model's context {self.context}", "prompt", fix)

    def _sees_all(self, inputs: ModelInputs) -> bool:
        """Whether no layer's window is shorter than these sequences."""
        return not self.window or inputs.ids.shape[1] <= self.window

    def _fed(self, model: HubModel, inputs: ModelInputs) -> dict[str, Any]:
        """The arguments of the model without its head."""
        dtype = core(model).dtype
        images = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.images.items()}
        return {"input_ids": inputs.ids, "attention_mask": inputs.attention.long(), **images, **self.token_types(inputs)}

    def token_types(self, inputs: ModelInputs) -> dict[str, torch.Tensor]:
        """Further arguments of the model that tell the tokens of a sequence apart, [B, L] each."""
        return {}

    def _mask(self, inputs: ModelInputs, dtype: torch.dtype) -> Any:
        """The attention mask where blanks see one another, or prompts branch off the images."""
        return additive(visible(inputs.attention.bool(), self._groups(inputs), inputs.branch), dtype)

    def _groups(self, inputs: ModelInputs) -> torch.Tensor:
        """[B, L], the group within which a token's attention is bidirectional; 0 is none."""
        group = torch.zeros_like(inputs.ids) if inputs.group is None else inputs.group.long()
        # The prefix is causal.
        return group.masked_fill(group == PREFIX, 0)

    def _positions(self, model: HubModel, inputs: ModelInputs) -> torch.Tensor:
        """Position ids [..., B, L], where every branch continues from the end of the images."""
        if inputs.branch is None:
            return self.plain_positions(model, inputs)
        begins = inputs.branch != torch.nn.functional.pad(inputs.branch, (1, 0))[:, :-1]
        order = torch.arange(inputs.ids.shape[1], device=inputs.ids.device).expand_as(inputs.ids)
        start = torch.where(begins, order, 0).cummax(1).values
        first = ((inputs.branch == 0) & inputs.attention.bool()).sum(1, keepdim=True)
        return self.plain_positions(model, inputs) - torch.where(inputs.branch > 0, start - first, 0)

    def plain_positions(self, model: HubModel, inputs: ModelInputs) -> torch.Tensor:
        """The position ids [..., B, L] that the model itself gives sequences padded on the right."""
        return torch.arange(inputs.ids.shape[1], device=inputs.ids.device).expand_as(inputs.ids)

    def _each_branch(self, inputs: ModelInputs, positions: torch.Tensor) -> tuple[ModelInputs, torch.Tensor]:
        """Sequences of one branch each, in the order of rows and branches, and the positions in them."""
        assert inputs.branch is not None and inputs.group is not None
        rows: list[tuple[int, torch.Tensor]] = []
        for row, branch in enumerate(inputs.branch):
            for number in range(1, max(int(branch.max()), 1) + 1):
                chosen = ((branch == 0) | (branch == number)) & inputs.attention[row].bool()
                rows.append((row, chosen.nonzero()[:, 0]))
        width = max(len(columns) for _, columns in rows)

        def gathered(values: torch.Tensor, fill: Any) -> torch.Tensor:
            out = values.new_full((len(rows), width), fill)
            for i, (row, columns) in enumerate(rows):
                out[i, : len(columns)] = values[row, columns]
            return out

        scored, branch = gathered(positions, False), gathered(inputs.branch, 0)
        first = torch.tensor([row == 0 or rows[row - 1][0] != rows[row][0] for row in range(len(rows))], device=branch.device)
        # A position of the images is counted once.
        scored &= (branch > 0) | first[:, None]
        each = ModelInputs(
            gathered(inputs.ids, self.tokenizer.pad_token_id or 0),
            gathered(inputs.attention, 0),
            self._repeated(inputs, [row for row, _ in rows]),
            gathered(inputs.group, 0),
            branch.clamp_max(1),
        )
        return each, scored

    def _repeated(self, inputs: ModelInputs, rows: list[int]) -> dict[str, torch.Tensor]:
        """The images of these rows. Every argument counts images along its first dimension."""
        starts = np.concatenate([[0], np.cumsum([self._count(ids) for ids in inputs.ids])])
        chosen = [image for row in rows for image in range(starts[row], starts[row + 1])]
        return {name: value[chosen] for name, value in inputs.images.items()}

    def _count(self, ids: torch.Tensor) -> int:
        """The number of images in a sequence."""
        return int((ids == self.image_id).sum()) // self.image_tokens

    def session(
        self, model: HubModel, inputs: ModelInputs, steps: FastSteps | None = None, show: Show | None = None
    ) -> HubSession:
        self._check_context(inputs)
        if self.trains:
            inputs = left_padded(inputs, self.tokenizer.pad_token_id or 0)
        inputs = inputs.to(model.device)
        types = self.token_types(inputs) if self.trains else {}
        fed = {"input_ids": inputs.ids, "attention_mask": inputs.attention, **inputs.images, **types}
        return HubSession(model, fed, steps)

    def decoder(self, model: HubModel) -> PreTrainedModel:
        return model.get_decoder()

    def end_ids(self, model: HubModel) -> list[int]:
        end = model.generation_config.eos_token_id
        return [] if end is None else list(end) if isinstance(end, list | tuple) else [end]


def left_padded(inputs: ModelInputs, pad: int) -> ModelInputs:
    """Prompts that were padded on the right, padded on the left: what is written follows the prompt.

    A single prompt loses its padding: attention without a mask takes half as long.
    """
    columns = torch.arange(inputs.ids.shape[1], device=inputs.ids.device)
    used = (inputs.attention * (columns + 1)).amax(1, keepdim=True)
    length = int(used) if len(used) == 1 else len(columns)
    columns = columns[:length]
    source = columns - (length - used)
    ids = inputs.ids.gather(1, source.clamp_min(0)).masked_fill(source < 0, pad)
    attention = inputs.attention.gather(1, source.clamp_min(0)).bool() & (source >= 0)
    return ModelInputs(ids, attention.long(), inputs.images)


def _slides(text: PreTrainedConfig) -> bool:
    return "sliding_attention" in (getattr(text, "layer_types", None) or ())


def _untrainable(what: str) -> UserError:
    from vla.models.families.find import trainable

    return UserError(f"{what} cannot be trained", "model.vlm", f"use a model of type {', '.join(trainable())}")

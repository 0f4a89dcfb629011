"""Encoded samples side by side, as a model takes them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from vla.models.families.base import ModelFamily
from vla.models.inputs import BLOCK, ModelInputs
from vla.tokenization.sequence import Sequence, collate

BUCKET = 8
"""Prompts are padded to a multiple of this, so that few shapes occur."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A masked sequence with its images.

    Attributes:
        images: one per camera, in the contract's order, and time, oldest first: uint8 [H, W, 3]; None is an image that is not
            there.
        embodiment: the number of the embodiment in the contract; 0 for questions.
        actions: number of scored tokens, at the end, that are actions.
        block: number of tokens, at the end, that are written at once; the model reads blanks in their place.
    """

    sequence: Sequence
    images: list[np.ndarray | None]
    embodiment: int = 0
    actions: int = 0
    block: int = 0


@dataclasses.dataclass
class Batch:
    """Encoded samples side by side, padded on the right.

    Attributes:
        inputs: what the model reads, with blanks in place of tokens that are written at once.
        labels: int64 [B, L], -100 where nothing is scored.
        embodiment: int64 [B], the number of each row's embodiment in the contract.
        actions: int64 [B], the number of each row's scored tokens, at the end, that are actions.
    """

    inputs: ModelInputs
    labels: torch.Tensor
    embodiment: torch.Tensor
    actions: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        tensors = (self.labels, self.embodiment, self.actions)
        return Batch(self.inputs.to(device), *(tensor.to(device, non_blocking=True) for tensor in tensors))


def collate_examples(examples: list[Example], family: ModelFamily, mutual: bool, bucket: int = BUCKET) -> Batch:
    """Puts examples side by side, padded on the right to a multiple of `bucket`.

    Args:
        mutual: whether the blanks of a block see one another.
    """
    pad, longest = family.tokenizer.pad_token_id, max(len(example.sequence) for example in examples)
    arrays = collate([example.sequence for example in examples], pad, -(-longest // bucket) * bucket)
    ids, group = torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["prefix"]).to(torch.int8)
    labels = ids.masked_fill(~torch.from_numpy(arrays["loss"]), -100)
    for row, example in enumerate(examples):
        if example.block:
            block = slice(len(example.sequence) - example.block, len(example.sequence))
            ids[row, block] = pad
            # Nothing is predicted from the last blank, and decoding leaves it out.
            group[row, block][:-1] = BLOCK if mutual else 0
    attention, branch = torch.from_numpy(arrays["attention"]), torch.from_numpy(arrays["branch"]).long()
    inputs = ModelInputs(ids, attention, family.images([example.images for example in examples]), group, branch)
    embodiment, actions = (torch.tensor([getattr(e, name) for e in examples]) for name in ("embodiment", "actions"))
    return Batch(inputs, labels, embodiment, actions)

"""Encoded samples side by side, as a model takes them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from vla.models.families.base import ModelFamily
from vla.models.inputs import BLOCK, ModelInputs
from vla.tokenization.sequence import Sequence, collate

BUCKET = 8
"""Prompts are padded to multiples of this, so that few shapes occur."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A masked sequence with its images: one uint8 [H, W, 3] per camera in the contract's order, oldest first; None: unseen.

    Attributes:
        embodiment: the number of its embodiment in the contract; 0 for questions.
        actions: how many of the scored tokens, the last of all, are a chunk's.
        block: how many tokens, the last of all, are written at once: blanks stand for them in what the model reads.
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
        inputs: what the model reads; blanks stand for what is written at once.
        labels: int64 [B, L], -100 where nothing is scored.
        embodiment: int64 [B], the number of each row's embodiment in the contract.
        actions: int64 [B], how many of a row's scored tokens, the last of all, are a chunk's.
    """

    inputs: ModelInputs
    labels: torch.Tensor
    embodiment: torch.Tensor
    actions: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""
        tensors = (self.labels, self.embodiment, self.actions)
        return Batch(self.inputs.to(device), *(tensor.to(device, non_blocking=True) for tensor in tensors))


def collate_examples(examples: list[Example], family: ModelFamily, mutual: bool, bucket: int = BUCKET) -> Batch:
    """Pads on the right to a multiple of `bucket`.

    Args:
        mutual: whether the tokens of a block see one another.
    """
    pad, longest = family.tokenizer.pad_token_id, max(len(example.sequence) for example in examples)
    arrays = collate([example.sequence for example in examples], pad, -(-longest // bucket) * bucket)
    ids, group = torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["prefix"]).to(torch.int8)
    labels = ids.masked_fill(~torch.from_numpy(arrays["loss"]), -100)
    for row, example in enumerate(examples):
        if example.block:
            block = slice(len(example.sequence) - example.block, len(example.sequence))
            ids[row, block] = pad
            # The last blank says nothing, and decoding leaves it out.
            group[row, block][:-1] = BLOCK if mutual else 0
    attention, branch = torch.from_numpy(arrays["attention"]), torch.from_numpy(arrays["branch"]).long()
    inputs = ModelInputs(ids, attention, family.images([example.images for example in examples]), group, branch)
    embodiment, actions = (torch.tensor([getattr(e, name) for e in examples]) for name in ("embodiment", "actions"))
    return Batch(inputs, labels, embodiment, actions)

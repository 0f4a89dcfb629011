"""Encoded samples side by side, as the model takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from vla.models.tiny.attention import BLOCK
from vla.tokenization.sequence import Sequence, collate

BUCKET = 8
"""Prompts are padded to multiples of this, so that few shapes occur."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A masked sequence with its images: one uint8 [H, W, 3] per camera in the contract's order, oldest first; None: unseen.

    Attributes:
        actions: how many of the scored tokens, the last of all, are a chunk's.
        block: how many tokens, the last of all, are written at once: blanks stand for them in what the model reads.
    """

    sequence: Sequence
    images: list[np.ndarray | None]
    actions: int = 0
    block: int = 0


def collate_examples(examples: list[Example], processor: Any, mutual: bool, bucket: int = BUCKET) -> dict[str, torch.Tensor]:
    """Pads on the right to a multiple of `bucket`.

    Args:
        processor: has `tokenizer` and `pixels(samples)`.
        mutual: whether the tokens of a block see one another.

    Returns:
        input_ids [B, L], with blanks for what is written at once; attention_mask bool [B, L], branch_ids [B, L]; prefix_mask
        int8 [B, L], the group of tokens that see one another (`vla.models.tiny.attention`); labels [B, L] (-100 where
        nothing is scored) and pixel_values float [B, C, 3, S, S] in [-1, 1].
    """
    pad, longest = processor.tokenizer.pad_token_id, max(len(example.sequence) for example in examples)
    arrays = collate([example.sequence for example in examples], pad, -(-longest // bucket) * bucket)
    ids, group = torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["prefix"]).to(torch.int8)
    labels = ids.masked_fill(~torch.from_numpy(arrays["loss"]), -100)
    for row, example in enumerate(examples):
        if example.block:
            block = slice(len(example.sequence) - example.block, len(example.sequence))
            ids[row, block] = pad
            # The last blank says nothing, and decoding leaves it out.
            group[row, block][:-1] = BLOCK if mutual else 0
    return {
        "input_ids": ids,
        "attention_mask": torch.from_numpy(arrays["attention"]),
        "prefix_mask": group,
        "branch_ids": torch.from_numpy(arrays["branch"]).long(),
        "labels": labels,
        "pixel_values": processor.pixels([example.images for example in examples]),
    }

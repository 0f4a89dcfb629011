"""New tokens in a model's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vla.errors import UserError


@torch.no_grad()
def append_tokens(model: Any, tokenizer: Any, tokens: Sequence[str], words: Sequence[str] = (), seed: int = 0) -> None:
    """Adds tokens to the tokenizer and rows for them to the model's embeddings and, where it has its own, to its output layer.

    A row begins as the mean of the rows of its word's tokens (for a number that is one token: as that token's), or, without
    words, as a draw from the distribution of all rows. Tokens that are there already keep their rows.

    Args:
        model: of transformers, without adapters.
        tokenizer: its own.
        tokens: to be added.
        words: one per token, or none.
        seed: of what is drawn.

    Raises:
        UserError: the model has adapters: new rows would be frozen.
    """
    known = tokenizer.get_vocab()
    new = [i for i, token in enumerate(tokens) if token not in known]
    if not new:
        return
    if hasattr(model, "peft_config"):
        raise UserError(
            "tokens cannot be added to a model with adapters", "contract.tokens", "choose overwrite, or train without"
        )
    sources = [tokenizer(words[i], add_special_tokens=False)["input_ids"] if words else [] for i in new]
    tokenizer.add_tokens([tokens[i] for i in new])
    ids = tokenizer.convert_tokens_to_ids([tokens[i] for i in new])
    if len(tokenizer) > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    # Tied ones are one matrix.
    for weight in {id(layer.weight): layer.weight for layer in layers if layer is not None}.values():
        generator = torch.Generator().manual_seed(seed)
        old = weight[: min(ids)].float().cpu()
        drawn = old.mean(0) + old.std(0) * torch.randn(len(ids), old.shape[1], generator=generator)
        for row, (i, source) in enumerate(zip(ids, sources, strict=True)):
            weight[i] = (old[source].mean(0) if source else drawn[row]).to(weight)

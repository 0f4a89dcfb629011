"""Adding tokens to a model's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vla.errors import UserError
from vla.models.ordinal_embeddings import ordinal_init


@torch.no_grad()
def append_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], words: Sequence[str] = (), seed: int = 0
) -> None:
    """Adds tokens to the tokenizer, and rows for them to the model's embeddings and to its output layer if that is not tied.

    With words that are single tokens, a row starts as its word's. With words that are not, as numbers in most public models, rows
    start as ordinal codes, in the order of the tokens. Without words, a row is a draw from a normal distribution fitted to the
    existing rows. Tokens that exist already keep their rows.

    Args:
        model: a model without adapters.
        tokenizer: the model's tokenizer.
        tokens: the tokens to add.
        words: one word per token, whose values rise, or none.
        seed: seed of the draws.

    Raises:
        UserError: the model has adapters; new rows would be frozen.
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
    ids = cast(list[int], tokenizer.convert_tokens_to_ids([tokens[i] for i in new]))
    if len(tokenizer) > len(cast(torch.nn.Embedding, model.get_input_embeddings()).weight):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    weights = [cast(torch.Tensor, layer.weight) for layer in layers]
    # Tied layers share one matrix.
    for weight in {id(weight): weight for weight in weights}.values():
        generator = torch.Generator().manual_seed(seed)
        old = weight[: min(ids)].float().cpu()
        drawn = old.mean(0) + old.std(0) * torch.randn(len(ids), old.shape[1], generator=generator)
        for row, (i, source) in enumerate(zip(ids, sources, strict=True)):
            weight[i] = (old[source[0]] if len(source) == 1 else drawn[row]).to(weight)
        if any(len(source) > 1 for source in sources):
            ordinal_init(weight, ids, seed=seed)

"""New tokens in a model's vocabulary: the initial values of their rows, tied or not."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from vla.errors import UserError
from vla.models.embeddings import append_tokens
from vla.models.load import load_vlm

TOKENS = [f"<act{k}>" for k in range(256)]
WORDS = [str(k) for k in range(256)]


def test_rows_start_as_those_of_their_words(vlm):
    model, processor = load_vlm(vlm)
    tokenizer = processor.tokenizer
    before, known = model.get_input_embeddings().weight.detach().clone(), tokenizer.get_vocab()
    append_tokens(model, tokenizer, TOKENS, WORDS)
    after, ids = model.get_input_embeddings().weight, tokenizer.convert_tokens_to_ids(TOKENS)
    assert len(after) == len(tokenizer) == model.config.text_config.vocab_size == len(before) + 256
    assert torch.equal(after[: len(before)], before)
    assert torch.equal(after[ids[7]], before[known["7"]]) and torch.equal(after[ids[128]], before[known["128"]])
    append_tokens(model, tokenizer, TOKENS, WORDS)
    assert len(tokenizer) == len(before) + 256
    inputs = torch.tensor([[ids[0], ids[255]]])
    assert model(inputs, prefix_mask=torch.ones_like(inputs)).logits.shape[-1] == len(tokenizer)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_words_of_several_tokens_are_ordinal(vlm, tied):
    tokenizer = load_vlm(vlm)[1].tokenizer
    shape = {"hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=tied, **shape))
    append_tokens(model, tokenizer, TOKENS, [str(1000 + k) for k in range(256)])
    ids = tokenizer.convert_tokens_to_ids(TOKENS)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        rows = layer.weight[ids].detach()
        similarity = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
        assert similarity.diagonal(1).mean() > 0.6 > 0.4 > similarity.diagonal(16).abs().mean()


@pytest.mark.parametrize("tied", [True, False])
def test_input_and_output_rows_of_any_causal_model(vlm, tied):
    tokenizer = load_vlm(vlm)[1].tokenizer
    # Many public models have more rows than tokens.
    size = len(tokenizer) + 64
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=size, tie_word_embeddings=tied, **shape))
    seven = tokenizer.get_vocab()["7"]
    append_tokens(model, tokenizer, TOKENS[:60], WORDS[:60])
    assert len(model.get_input_embeddings().weight) == size
    append_tokens(model, tokenizer, TOKENS)
    ids = tokenizer.convert_tokens_to_ids(TOKENS)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert len(layer.weight) == len(tokenizer) and torch.equal(layer.weight[ids[7]], layer.weight[seven])
        assert layer.weight[ids[-1]].std() > 0 and not torch.equal(layer.weight[ids[-1]], layer.weight[ids[-2]])


def test_adapters_are_refused(vlm):
    model, processor = load_vlm(vlm)
    model.peft_config = {}
    with pytest.raises(UserError, match="adapters"):
        append_tokens(model, processor.tokenizer, TOKENS)

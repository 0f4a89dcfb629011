import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla.errors import UserError
from vla.models.load import load_vlm, new_tiny, shipped_folder
from vla.models.logprobs import allowed_mass, masked_sum, scored, token_logprobs
from vla.models.tiny.text import LOCATIONS, train_tokenizer
from vla.tokenization.vocabulary import Vocabulary

TOKENIZER = train_tokenizer(["pick up the red cube"] * 3, vocab_size=280)


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text(max_size=40))
def test_decoding_inverts_encoding(text):
    assert TOKENIZER.decode(ids(text), clean_up_tokenization_spaces=False) == text


def test_integers_and_locations_are_one_token_each():
    vocabulary = Vocabulary.from_tokenizer(TOKENIZER)
    assert [ids(str(i)) for i in range(256)] == [[i] for i in vocabulary.integer_ids]
    assert ids("".join(LOCATIONS)) == list(vocabulary.loc_ids)
    digits = set(vocabulary.integer_ids[:10])
    for text in ("256", "300", "1234", "x12"):  # not the integers they begin or end with
        assert digits >= {i for i in ids(text) if i in vocabulary.integer_ids}
    assert TOKENIZER.eos_token == "<eos>" and TOKENIZER.pad_token_id == 0


def test_ordinal_embeddings_are_smooth_and_of_the_others_size(small, tokenizer):
    weight, vocabulary = small[0].get_input_embeddings().weight.detach(), Vocabulary.from_tokenizer(tokenizer)
    for rows in (weight[list(vocabulary.integer_ids)], weight[list(vocabulary.loc_ids)]):
        similarity = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
        assert similarity.diagonal(1).mean() > 0.6 > 0.4 > similarity.diagonal(16).abs().mean()
        assert torch.isclose(rows.std(), weight[: len(weight) - 400].std(), rtol=0.1)
    assert torch.equal(
        weight, new_tiny(tokenizer, text_config=small[0].config.text_config.to_dict())[0].get_input_embeddings().weight
    )


def test_the_processor_takes_images_of_any_size_and_refuses_other_inputs(small):
    processor = small[1]
    white, black = np.full((64, 64, 3), 255, np.uint8), np.zeros((120, 80, 3), np.uint8)
    pixels = processor.pixels([[white, black]])[0]
    assert pixels.shape == (2, 3, 64, 64) and (pixels[0] == 1).all() and (pixels[1] == -1).all()
    with pytest.raises(UserError, match="1 images"):
        processor.pixels([[white]])
    with pytest.raises(UserError, match="float32"):
        processor.pixels([[white.astype(np.float32), black]])
    data = processor([[white, black]] * 2, ["red cube", "pick up the other red cube"])
    assert (data["input_ids"] == processor.image_token_id).sum(1).tolist() == [80, 80]
    assert data["attention_mask"][0, 0] == 0 and data["attention_mask"][:, -1].all()


def test_loading_says_what_is_missing(tmp_path):
    if not (shipped_folder() / "config.json").exists():
        with pytest.raises(UserError, match="pretrain-tiny"):
            load_vlm("tiny")
    with pytest.raises(UserError, match="no model found"):
        load_vlm(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UserError, match="cannot load"):
        load_vlm(tmp_path)


def test_log_probabilities():
    logits, words = torch.randn(3, 4, 11), torch.randint(11, (3, 4))
    expected = logits.log_softmax(-1).gather(-1, words[..., None])[..., 0]
    assert torch.allclose(token_logprobs(logits, words), expected, atol=1e-6)
    assert token_logprobs(logits.bfloat16(), words).dtype == torch.float32
    mask = torch.tensor([[True, False, True, True]] * 3)
    assert torch.allclose(masked_sum(expected, mask), expected[:, [0, 2, 3]].sum(1))
    assert torch.allclose(allowed_mass(logits, torch.arange(11)), torch.ones(3, 4))
    assert scored(torch.tensor([[-100, 5, -100, 7]])).tolist() == [[True, False, True, False]]

"""Small models from scratch: other tokenizers, wrong specifications, and models of other families."""

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as kinds
from transformers import Blip2Config, GPT2Config, PreTrainedTokenizerFast, T5Config

from vla.errors import UserError
from vla.models.load import load_vlm
from vla.models.tiny.from_scratch import VLMSpec
from vla.models.tiny.text import complete
from vla.tokenization.vocabulary import Vocabulary


def test_missing_tokens_are_added_to_a_tokenizer():
    plain = Tokenizer(kinds.WordLevel({"<eos>": 0, "<unk>": 1, "lift": 2, "7": 3}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = complete(PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", unk_token="<unk>"))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.integer_ids[7] == 3 and len(tokenizer) == 4 + 255 + 64 + 1 and tokenizer.pad_token == "<eos>"
    assert tokenizer("lift 128 <image>")["input_ids"] == [2, vocabulary.integer_ids[128], tokenizer.get_vocab()["<image>"]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vision_name": "no-such-net"}, "no-such-net"),
        ({"stride": 1}, "stride 1"),
        ({"image_size": 60}, "do not divide"),
        ({"text_config": {"model_type": "no-such-model"}}, "no-such-model"),
        ({"text_config": {"hidden_size": 30}}, "no model can be made: .*not divisible"),
        ({"tokenizer": "no/such/tokenizer"}, "cannot load the tokenizer"),
        ({"vision_args": {"colour": 1}}, "colour"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(wrong, message):
    with pytest.raises(UserError, match=message):
        VLMSpec(**wrong).make()


def test_models_of_other_kinds_are_refused_before_anything_is_loaded(tmp_path):
    """The configuration is all that is there."""
    for name, config in {"text": GPT2Config(), "encoder-decoder": T5Config(), "unknown": Blip2Config()}.items():
        config.save_pretrained(tmp_path / name)
        with pytest.raises(UserError, match=f"{config.model_type} cannot be trained"):
            load_vlm(tmp_path / name, history=1)

"""Tokenizers of small models: trained on the words of a task, or completed from an existing tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>")
LOCATIONS = tuple(f"<loc{i:02d}>" for i in range(64))
INTEGERS = tuple(str(i) for i in range(256))


def train_tokenizer(corpus: Iterable[str], vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE on `corpus` and adds location tokens and one token for each integer from 0 to 255.

    An integer is one token where it is a word of its own ("128"). Other numbers are split into digits ("300" is "3", "0", "0"),
    so decoding returns the text exactly. Any text can be encoded: unknown words fall back to bytes.

    Args:
        corpus: sentences in the form in which they will be encoded.
        vocab_size: size of the BPE vocabulary, bytes and special tokens included; at least 260. Locations and integers are added.
    """
    tokenizer = Tokenizer(models.BPE())
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in LOCATIONS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, single_word=True) for token in INTEGERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def complete(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Adds to a tokenizer `<image>`, the location and integer tokens that it lacks, and a padding token; returns it."""
    known = tokenizer.get_vocab()
    locations = [AddedToken(token, normalized=False) for token in LOCATIONS if token not in known]
    integers = [AddedToken(token, normalized=False, single_word=True) for token in INTEGERS if token not in known]
    if "<image>" not in known:
        tokenizer.add_tokens(cast(Any, AddedToken("<image>", normalized=False, special=True)), special_tokens=True)
    tokenizer.add_tokens(cast(Any, locations + integers))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

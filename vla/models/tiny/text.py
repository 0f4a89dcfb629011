"""Tokenizers of small models: trained on the words of the task, or another model's with what they need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>")
LOCATIONS = tuple(f"<loc{i:02d}>" for i in range(64))
INTEGERS = tuple(str(i) for i in range(256))


def train_tokenizer(corpus: Iterable[str], vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE over `corpus` with location tokens and one token for each integer from 0 to 255.

    An integer is one token where it stands as a word ("128"); inside longer numbers digits stay apart ("300" is "3", "0",
    "0"), so that every text comes back from its ids. Any text can be encoded: unknown words fall back to bytes.

    Args:
        corpus: sentences, as they will be encoded.
        vocab_size: words of the BPE part, bytes and special tokens included; at least 260. Locations and integers come on top.
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
    """The same tokenizer with `<image>`, the location tokens and the integers that it lacks, and something to pad with."""
    known = tokenizer.get_vocab()
    places = [AddedToken(token, normalized=False) for token in LOCATIONS if token not in known]
    integers = [AddedToken(token, normalized=False, single_word=True) for token in INTEGERS if token not in known]
    if "<image>" not in known:
        tokenizer.add_tokens(cast(Any, AddedToken("<image>", normalized=False, special=True)), special_tokens=True)
    tokenizer.add_tokens(cast(Any, places + integers))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

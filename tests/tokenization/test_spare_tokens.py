"""Which tokens of a public tokenizer stand for actions by default."""

import pytest

from vla.tokenization.action_tokens import action_token_ids, chosen_tokens

SPELLING = [str(k) for k in range(256)]


class Words:
    """The part of a tokenizer that a vocabulary needs, with these tokens after `base` others."""

    eos_token_id, all_special_ids, added_tokens_decoder = 1, [0, 1], {}

    def __init__(self, base, tokens=()):
        self.vocab = {f"w{i}": i for i in range(base)} | {token: base + i for i, token in enumerate(tokens)}
        self.vocab_size = base

    def get_vocab(self):
        return self.vocab

    def __len__(self):
        return len(self.vocab)


@pytest.mark.parametrize(
    ("tokenizer", "rows", "chosen"),
    [
        (Words(300, SPELLING), 600, "integers"),
        # PaliGemma: location tokens rather than its 99 unused ones.
        (Words(9000, [f"<unused{k}>" for k in range(99)] + [f"<loc{k:04d}>" for k in range(1024)]), 11000, "spare:<loc0000>"),
        # Gemma 3.
        (Words(9000, [f"<unused{k}>" for k in range(6242)]), 16000, "spare:<unused0>"),
        (Words(9000, [f"<|reserved_special_token_{k}|>" for k in range(300)]), 9300, "spare:<|reserved_special_token_0|>"),
        # Qwen: more rows than tokens. Llama 3 has 248 reserved tokens only.
        (Words(9000, ["<|im_end|>"]), 9300, "append"),
        (Words(9000, [f"<|reserved_special_token_{k}|>" for k in range(248)]), 9248, "overwrite"),
        (Words(2000), 2000, "append"),
    ],
    ids=["integers", "loc", "unused", "reserved", "free rows", "least used", "grow"],
)
def test_the_first_choice_that_the_tokenizer_has_room_for(tokenizer, rows, chosen):
    assert chosen_tokens(tokenizer, "", SPELLING, rows) == chosen
    assert chosen_tokens(tokenizer, "overwrite:700", SPELLING, rows) == "overwrite:700"
    if chosen.startswith("spare"):
        ids = action_token_ids(tokenizer, chosen, SPELLING)
        assert ids == tuple(range(ids[0], ids[0] + 256)) and ids[0] == tokenizer.vocab[chosen.removeprefix("spare:")]

"""Ordinal tokens: which statistic of their distribution is written, and at which positions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.errors import UserError
from vla.models.decoding.allowed import Block, Follow, Free, Ordinal
from vla.models.decoding.choose import NEIGHBOURHOOD, likeliest, ordinal_choice
from vla.models.decoding.decode import write
from vla.models.families import tiny as tiny_family
from vla.models.families.tiny import TinySession

STATISTICS = ["mode", "median", "local-mean"]
# In the order of their values, which is not that of their ids.
WORDS = [*range(330, 300, -1), 340, 350, 345]


def defined(logits, statistic):
    """The index of the chosen value by the definition, in float64; logits of -inf are illegal."""
    shares = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    shares /= shares.sum()
    mode = int(shares.argmax())
    if statistic == "mode":
        return mode
    if statistic == "median":
        return next(i for i in range(len(shares)) if shares[: i + 1].sum() >= 0.5)
    near = np.abs(np.arange(len(shares)) - mode) <= len(shares) * NEIGHBOURHOOD
    mean = (shares * near * np.arange(len(shares))).sum() / (shares * near).sum()
    return min((i for i in range(len(shares)) if np.isfinite(logits[i])), key=lambda i: abs(i - mean))


@given(
    st.lists(st.one_of(st.floats(-8, 8, width=32), st.just(float("-inf"))), min_size=2, max_size=300).filter(
        lambda row: np.isfinite(row).any()
    )
)
@settings(max_examples=150, deadline=None)
def test_statistics_follow_their_definitions_and_are_legal(row):
    """Up to what float32 makes of a sum: where two values are equally right, either is."""
    shares = np.exp(np.array(row) - np.max(row))
    shares, values = shares / shares.sum(), np.arange(len(row))
    mode, median, local = (int(ordinal_choice(torch.tensor(row), statistic)) for statistic in STATISTICS)
    assert row[mode] == max(row) and all(np.isfinite(row[chosen]) for chosen in (mode, median, local))
    assert shares[:median].sum() < 0.5 + 1e-5 and shares[: median + 1].sum() > 0.5 - 1e-5
    near = shares * (np.abs(values - mode) <= len(row) * NEIGHBOURHOOD)
    off = np.abs(values - (near * values).sum() / near.sum())
    assert off[local] <= off[np.isfinite(row)].min() + 1e-3


def test_the_median_of_one_peak_is_its_middle_and_of_two_peaks_on_the_heavier():
    values = torch.arange(256)
    flat = torch.where((values - 100).abs() < 6, 3.0, 0.0) + 0.01 * torch.sin(values * 2.0)
    assert abs(int(ordinal_choice(flat * 3, "median")) - 100) <= 1
    left, right = -((values - 40) ** 2) / 8.0, -((values - 200) ** 2) / 8.0
    for heavier, centre in ((0.3, 40), (-0.3, 200)):
        hills = torch.logaddexp(left + heavier, right)
        for statistic in STATISTICS:
            assert abs(int(ordinal_choice(hills, statistic)) - centre) <= 4


def test_nan_and_infinite_logits_give_an_index_in_range():
    """A server must not fail on a CPU, or lose its GPU, by an index out of range."""
    for bad in (float("nan"), float("inf"), -float("inf")):
        for logits in (torch.full((2, 9), bad), torch.randn(2, 9).index_fill(1, torch.tensor([3]), bad)):
            for statistic in STATISTICS:
                assert (ordinal_choice(logits, statistic) < 9).all()


def test_a_neighbourhood_is_of_the_legal_values():
    """The same values among others that are illegal: token by token and in a block the same is written."""
    alone = torch.randn(60, generator=torch.Generator().manual_seed(4)) * 3
    among = torch.full((256,), -torch.inf)
    among[:60] = alone
    assert all(ordinal_choice(alone, statistic) == ordinal_choice(among, statistic) for statistic in STATISTICS)


def test_rows_and_positions_are_independent():
    logits = torch.randn(5, 7, 256, generator=torch.Generator().manual_seed(0)) * 2
    for statistic in STATISTICS:
        together = ordinal_choice(logits, statistic)
        assert together.shape == (5, 7)
        assert all(ordinal_choice(logits[i, j], statistic) == together[i, j] for i in range(5) for j in range(7))


def test_an_open_answer_uses_the_ordinal_list_of_its_likeliest_word():
    logits = torch.full((3, 20), -9.0)
    logits[0, [4, 5, 6]] = torch.tensor([1.0, 0.9, 0.9])  # an ordinal's: the middle of three
    logits[1, [4, 5, 6, 12]] = torch.tensor([1.0, 0.9, 0.9, 1.1])  # a word's
    logits[2, [15, 14, 13]] = torch.tensor([1.0, 0.9, 0.8])  # an ordinal whose ids fall
    ordinals = [Ordinal(torch.arange(4, 9), "median"), Ordinal(torch.tensor([15, 14, 13]), "median")]
    assert likeliest(logits, ordinals).tolist() == [5, 12, 14]
    assert likeliest(logits).tolist() == [4, 12, 15]


def row(prompts, index):
    ids, prefix, attention, pixels = (p[index : index + 1] for p in prompts)
    n = int(attention.sum())
    return ids[:, :n], prefix[:, :n], attention[:, :n], pixels


def naive(model, ids, prefix, pixels, allowed):
    """The whole sequence through the model for every token, and the statistic by its definition."""
    tokens, logprobs = [], []
    for position in allowed:
        words, statistic = (
            (position.words, position.statistic) if isinstance(position, Ordinal) else (torch.tensor(position), "mode")
        )
        with torch.inference_mode():
            logits = model(ids, pixels, prefix_mask=prefix).logits[0, -1, words]
        best = defined(logits.numpy(), statistic)
        tokens.append(int(words[best]))
        logprobs.append(float(logits.log_softmax(-1)[best]))
        ids = torch.cat([ids, words[best].view(1, 1)], 1)
        prefix = torch.cat([prefix, torch.zeros(1, 1, dtype=torch.bool)], 1)
    return tokens, logprobs


@pytest.mark.parametrize("statistic", ["median", "local-mean"])
@pytest.mark.parametrize("lean", [True, False])
def test_ordinal_positions_are_written_by_their_statistic_alone_and_in_a_batch(small, prompts, statistic, lean, monkeypatch):
    if not lean:
        monkeypatch.setattr(tiny_family, "cpu_decode_step", lambda language: None)
    ordinal = Ordinal(torch.tensor(WORDS), statistic)
    allowed = [ordinal, WORDS, [345], ordinal, ordinal]
    out = write(TinySession(small[0], *prompts), allowed)
    assert torch.equal(out.ids, write(TinySession(small[0], *prompts), allowed, valid_mass=True).ids)
    if statistic == "median":
        assert not torch.equal(out.ids, write(TinySession(small[0], *prompts), [WORDS, WORDS, [345], WORDS, WORDS]).ids)
    for i in range(3):
        ids, prefix, _, pixels = row(prompts, i)
        tokens, logprobs = naive(small[0], ids, prefix, pixels, allowed)
        # The log-probability is of what was written.
        assert out.ids[i].tolist() == tokens and torch.allclose(out.logprobs[i], torch.tensor(logprobs), atol=1e-4)
    # With equal shapes the rest of the batch changes nothing, bit for bit.
    others = [p[[1, 0, 0]] for p in prompts]
    again = write(TinySession(small[0], *others), allowed)
    assert torch.equal(again.ids[0], out.ids[1]) and torch.equal(again.logprobs[0], out.logprobs[1])


def test_follow_restricts_ordinal_positions(small, prompts):
    """Rows may write different values of one ordinal, which is the median of those that each may write."""

    def follow(written):
        return WORDS if not len(written) else WORDS[:10] if written[0] % 2 else WORDS[20:]

    ordinal = Ordinal(torch.tensor(WORDS), "median")
    out = write(TinySession(small[0], *prompts), Follow([ordinal, ordinal], follow), eos_id=2)
    for i in range(3):
        ids, prefix, _, pixels = row(prompts, i)
        first, _ = naive(small[0], ids, prefix, pixels, [ordinal])
        both, _ = naive(small[0], ids, prefix, pixels, [ordinal, Ordinal(torch.tensor(follow(np.array(first))), "median")])
        assert out.ids[i].tolist() == both


@pytest.mark.parametrize("mutual", [True, False])
def test_a_block_may_mix_ordinal_and_other_positions(small, prompts, mutual):
    long, short = Ordinal(torch.tensor(WORDS), "median"), Ordinal(torch.tensor(WORDS[5:15]), "median")
    flag, constant = WORDS[:2], [WORDS[7]]
    block = Block.of([flag, short, long, constant, WORDS], 0, mutual)
    assert block.words.tolist() == WORDS and block.ordinal.tolist() == [False, True, True, False, False]
    out, plain = (write(TinySession(small[0], *prompts), [], block=b) for b in (block, Block.of([flag, *[WORDS] * 4], 0, mutual)))
    modes = write(TinySession(small[0], *prompts), [], block=Block.of([flag, WORDS[5:15], WORDS, constant, WORDS], 0, mutual))
    assert torch.equal(out.ids[:, [0, 3, 4]], modes.ids[:, [0, 3, 4]]) and torch.equal(out.ids[:, 0], plain.ids[:, 0])
    # What a blank says does not depend on what is chosen, so all words' log-probabilities say what each position's median is.
    alone = [Block.of([flag, [word], [word], constant, [word]], 0, mutual) for word in WORDS]
    masses = [write(TinySession(small[0], *prompts), [], block=one, valid_mass=True).valid_mass for one in alone]
    chances = torch.stack(masses, -1).log()
    for i in range(3):
        assert out.ids[i, 2] == WORDS[defined(chances[i, 2].numpy(), "median")]
        assert out.ids[i, 1] == WORDS[5:15][defined(chances[i, 1, 5:15].numpy(), "median")]


def test_a_block_of_several_orders_or_statistics_is_refused():
    one = Ordinal(torch.tensor([1, 2, 3]), "median")
    for other in (Ordinal(torch.tensor([3, 2]), "median"), Ordinal(one.words, "mode"), Ordinal(torch.tensor([3, 4]), "median")):
        with pytest.raises(UserError, match="several orders or statistics"):
            Block.of([one, other], 0, True)
    assert Block.of([[9, 7], [8]], 0, True).words.tolist() == [7, 8, 9]


def test_sampling_is_what_it_was(small, prompts):
    """At a temperature above 0 an ordinal position is drawn as any other, by the same numbers."""
    words = sorted(WORDS)
    ordinal = Ordinal(torch.tensor(words), "median")
    for places, block in (([ordinal] * 3, None), ([ordinal], [ordinal] * 3)):
        plain = [[words] * len(places), None if block is None else Block.of([words] * 3, 0, True)]
        ordinal = [places, None if block is None else Block.of(block, 0, True)]
        drawn = [
            write(
                TinySession(small[0], *prompts),
                p,
                block=b,
                temperature=1.0,
                samples=4,
                generator=torch.Generator().manual_seed(3),
            )
            for p, b in (plain, ordinal)
        ]
        assert torch.equal(drawn[0].ids, drawn[1].ids) and torch.equal(drawn[0].logprobs, drawn[1].logprobs)


def test_free_text_has_no_scale(small, prompts):
    ordinals = [Ordinal(torch.arange(300, 500), "median")]
    free = [Free(2)] * 4
    plain = write(TinySession(small[0], *prompts), free)
    assert torch.equal(write(TinySession(small[0], *prompts), free, ordinals=ordinals).ids, plain.ids)
    open_answer = write(TinySession(small[0], *prompts), None, max_new_tokens=4, ordinals=ordinals)
    assert not torch.equal(open_answer.ids, write(TinySession(small[0], *prompts), None, max_new_tokens=4).ids)


def test_an_ordinal_of_ids_that_the_model_lacks_is_refused(small, prompts):
    with pytest.raises(UserError, match="a position allows"):
        write(TinySession(small[0], *prompts), [Ordinal(torch.tensor([1, 10**6]), "median")])

import copy
import math

import pytest
import torch

from vla.errors import UserError
from vla.models.decoding.allowed import Block, Follow, Free
from vla.models.decoding.decode import write
from vla.models.decoding.kv_cache import ROOM
from vla.models.families import tiny as tiny_family
from vla.models.families.tiny import TinySession
from vla.models.inputs import BLOCK

WORDS = list(range(300, 340))
ALLOWED = [WORDS, [345], WORDS, [346], [347], WORDS, WORDS]


def row(prompts, index):
    ids, prefix, attention, pixels = (p[index : index + 1] for p in prompts)
    n = int(attention.sum())
    return ids[:, :n], prefix[:, :n], attention[:, :n], pixels


def naive(model, ids, prefix, pixels, allowed):
    """The definition: the whole sequence through the model for every token."""
    tokens, logprobs, masses = [], [], []
    for words in allowed:
        with torch.inference_mode():
            logits = model(ids, pixels, prefix_mask=prefix).logits[0, -1]
        words = torch.tensor(words)
        best = logits[words].argmax()
        tokens.append(int(words[best]))
        logprobs.append(float(logits[words].log_softmax(-1)[best]))
        masses.append(float(logits.softmax(-1)[words].sum()))
        ids = torch.cat([ids, words[best].view(1, 1)], 1)
        prefix = torch.cat([prefix, torch.zeros(1, 1, dtype=torch.bool)], 1)
    return tokens, logprobs, masses


def test_unequal_prompts_in_a_batch_answer_as_alone_without_cache(small, prompts):
    together = write(TinySession(small[0], *prompts), ALLOWED)
    with_mass = write(TinySession(small[0], *prompts), ALLOWED, valid_mass=True)
    assert torch.equal(together.ids, with_mass.ids) and torch.allclose(together.logprobs, with_mass.logprobs, atol=1e-4)
    for i in range(3):
        ids, prefix, _, pixels = row(prompts, i)
        tokens, logprobs, masses = naive(small[0], ids, prefix, pixels, ALLOWED)
        assert together.ids[i].tolist() == tokens
        assert torch.allclose(together.logprobs[i], torch.tensor(logprobs), atol=1e-4)
        assert torch.allclose(with_mass.valid_mass[i], torch.tensor(masses), atol=1e-4)


def test_only_allowed_words_are_written_and_forced_ones_are_free(small, prompts, monkeypatch):
    calls, read = [], tiny_family.TinySession.read
    monkeypatch.setattr(tiny_family.TinySession, "read", lambda self, *fed: (calls.append(1), read(self, *fed))[1])
    out = write(TinySession(small[0], *prompts), ALLOWED)
    assert all(set(out.ids[:, k].tolist()) <= set(words) for k, words in enumerate(ALLOWED))
    assert len(calls) == 4 and (out.logprobs[:, [1, 3, 4]] == 0).all() and (out.logprobs[:, [0, 2, 5, 6]] < 0).all()


def test_an_answer_ends(small, prompts):
    free = write(TinySession(small[0], *prompts), max_new_tokens=6)
    end = int(free.ids[0, 2])
    out = write(TinySession(small[0], *prompts), max_new_tokens=6, eos_id=end)
    first = free.ids[0].tolist().index(end)
    assert out.ids[0, : first + 1].tolist() == free.ids[0, : first + 1].tolist()
    assert (out.ids[0, first:] == end).all() and (out.logprobs[0, first + 1 :] == 0).all()
    alone = write(TinySession(small[0], *row(prompts, 0)), max_new_tokens=6, eos_id=end)
    assert alone.ids.shape[1] == first + 1


def test_sampling_follows_the_generator_and_the_distribution(small, prompts):
    draw = [
        write(TinySession(small[0], *prompts), ALLOWED, temperature=1.0, generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert torch.equal(draw[0].ids, draw[1].ids) and not torch.equal(draw[0].ids, draw[2].ids)
    assert (draw[0].logprobs[:, 0] > -2 * math.log(len(WORDS))).all()


def test_transformers_own_generate_agrees(small, prompts):
    ids, _, _, pixels = row(prompts, 1)
    ours = write(TinySession(small[0], *row(prompts, 1)), max_new_tokens=5)
    theirs = small[0].generate(input_ids=ids, pixel_values=pixels, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert theirs[0, ids.shape[1] :].tolist() == ours.ids[0].tolist()


def test_the_cpu_decode_step_equals_the_modules_and_follows_the_weights(small, prompts, monkeypatch):
    """Every step's choice among all words, with forced words and unequal prompts; again after weights have changed."""
    model = copy.deepcopy(small[0])
    everything = [None, [301], None, [302], [303], None, None]

    def check():
        lean = write(TinySession(model, *prompts), everything, valid_mass=False)
        with monkeypatch.context() as without:
            without.setattr(tiny_family, "cpu_decode_step", lambda language: None)
            plain = write(TinySession(model, *prompts), everything)
        assert torch.equal(lean.ids, plain.ids) and torch.allclose(lean.logprobs, plain.logprobs, atol=1e-4)

    def trained(fused):
        write(TinySession(model, *prompts), everything)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=fused)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()

    check()
    for fused in (True, False):
        trained(fused)
        check()
    model.requires_grad_(False)
    check()
    with torch.no_grad():
        model.language.layers[0].mlp.dense_h_to_4h.weight.add_(0.3)
    check()
    assert tiny_family.cpu_decode_step(model.language) is tiny_family.cpu_decode_step(model.language)


def test_samples_of_one_prompt_are_read_once(small, prompts):
    calls = []
    hook = small[0].vision.register_forward_hook(lambda *_: calls.append(1))
    try:
        drawn = write(
            TinySession(small[0], *prompts), ALLOWED, temperature=1.0, samples=3, generator=torch.Generator().manual_seed(0)
        )
    finally:
        hook.remove()
    assert drawn.ids.shape == (9, len(ALLOWED)) and len(calls) == 1
    alone = write(
        TinySession(small[0], *row(prompts, 1)), ALLOWED, temperature=1.0, samples=400, generator=torch.Generator().manual_seed(0)
    )
    logits = small[0](*row(prompts, 1)[:1], row(prompts, 1)[3], prefix_mask=row(prompts, 1)[1]).logits[0, -1, WORDS]
    often = torch.tensor([(alone.ids[:, 0] == w).float().mean() for w in WORDS])
    assert (often - logits.softmax(-1)).abs().max() < 0.1


def follow(written):
    """Rows whose first word is even go on with one of ten words until they choose 310, the others write two of another ten."""
    if not len(written):
        return WORDS
    if written[0] % 2:
        return list(range(320, 330)) if len(written) < 3 else []
    return [] if written[-1] == 310 or len(written) == 6 else list(range(305, 315))


FOLLOW = Follow([sorted({*WORDS, *range(305, 330), 2})] * 7, follow)


def test_free_text_takes_all_its_positions_however_short_it_is(small, prompts):
    """Also by a `Follow`; followed by words or a block; with several samples of a prompt."""
    free = write(TinySession(small[0], *prompts), max_new_tokens=5).ids
    end = int(free[0, 1])
    places = [Free(end)] * 5 + ALLOWED
    out = write(TinySession(small[0], *prompts), places)
    assert (out.ids[0, 1:5] == end).all() and all(w in words for w, words in zip(out.ids[0, 5:].tolist(), ALLOWED, strict=True))
    for i in range(3):
        text = out.ids[i, :5].tolist()
        forced = write(TinySession(small[0], *row(prompts, i)), [[w] for w in text] + ALLOWED)
        assert forced.ids[0].tolist() == out.ids[i].tolist()
        first = text.index(end) + 1 if end in text else 5
        assert text[:first] == free[i, :first].tolist() and set(text[first:]) <= {end}
    following = Follow(places, lambda ids: places[len(ids)] if len(ids) < len(places) else [])
    assert torch.equal(write(TinySession(small[0], *prompts), following).ids, out.ids)
    mass = write(TinySession(small[0], *prompts), places, valid_mass=True)
    assert torch.equal(mass.ids, out.ids) and (mass.valid_mass[:, :5] == 1).all()
    block = write(TinySession(small[0], *prompts), places[:5], block=Block.of(ALLOWED, 0, False))
    assert torch.equal(block.ids[:, :6], out.ids[:, :6])
    drawn = write(TinySession(small[0], *prompts), places, temperature=1.0, samples=2, generator=torch.Generator().manual_seed(0))
    assert drawn.ids.shape == (6, len(places))


def test_rows_may_have_different_legal_words(small, prompts):
    together = write(TinySession(small[0], *prompts), FOLLOW, eos_id=2, valid_mass=True)
    for i, (ids, mass) in enumerate(zip(together.ids.tolist(), together.valid_mass, strict=True)):
        expected = write(TinySession(small[0], *row(prompts, i)), FOLLOW).ids[0].tolist()
        assert ids == expected + [2] * (len(ids) - len(expected)) and (mass[len(expected) + 1 :] == 1).all()
        assert all(w in follow(expected[:k]) for k, w in enumerate(expected)) and follow(expected) == []
        words, logprobs, masses = naive(
            small[0], *row(prompts, i)[:2], row(prompts, i)[3], [follow(expected[:k]) for k in range(len(expected))]
        )
        assert words == expected and torch.allclose(together.logprobs[i, : len(words)], torch.tensor(logprobs), atol=1e-4)
        assert torch.allclose(mass[: len(words)], torch.tensor(masses), atol=1e-4)
    drawn = write(
        TinySession(small[0], *row(prompts, 0)),
        FOLLOW,
        eos_id=2,
        temperature=1.0,
        samples=20,
        generator=torch.Generator().manual_seed(0),
    )
    lengths = set()
    for ids in drawn.ids.tolist():
        whole = next(k for k in range(len(ids) + 1) if follow(ids[:k]) == [])
        assert all(w in follow(ids[:k]) for k, w in enumerate(ids[:whole])) and set(ids[whole:]) <= {2}
        lengths.add(whole)
    assert len(lengths) > 1
    with pytest.raises(UserError, match="unequal length"):
        write(
            TinySession(small[0], *row(prompts, 0)),
            FOLLOW,
            temperature=1.0,
            samples=20,
            generator=torch.Generator().manual_seed(0),
        )
    wrongs = {"Follow": lambda ids: [310], "ids from -1": [[-1, 5]], "1000000": [[10**6]], "no ids": [[]], "nothing": []}
    for why, wrong in wrongs.items():
        with pytest.raises(UserError, match=why):
            write(TinySession(small[0], *prompts), wrong)
    with pytest.raises(UserError, match="temperature"):
        write(TinySession(small[0], *prompts), ALLOWED, temperature=-1.0)
    with pytest.raises(UserError, match="all words in `positions`"):
        write(TinySession(small[0], *prompts), Follow([WORDS] * 7, follow), eos_id=2)


def test_an_answer_may_outgrow_the_room_of_the_cache(small, prompts, monkeypatch):
    out = write(TinySession(small[0], *prompts), [WORDS] * (ROOM + 6))
    assert out.ids.shape == (3, ROOM + 6)
    monkeypatch.setattr(tiny_family, "cpu_decode_step", lambda language: None)
    plain = write(TinySession(small[0], *prompts), [WORDS] * (ROOM + 6))
    assert torch.equal(out.ids, plain.ids) and torch.allclose(out.logprobs, plain.logprobs, atol=1e-4)


def test_forced_tokens_of_a_single_row_need_no_call(small, prompts):
    calls, step = [], tiny_family.TinySession.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_family.TinySession, "read", lambda *a, **k: calls.append(1) or step(*a, **k))
        places = Follow([WORDS] * 6, lambda ids: [] if len(ids) == 6 else WORDS if len(ids) % 3 == 0 else WORDS[:1])
        alone = [write(TinySession(small[0], *row(prompts, i)), places) for i in range(3)]
        assert len(calls) == 3 * 2
        assert torch.equal(write(TinySession(small[0], *prompts), places).ids, torch.cat([one.ids for one in alone]))
        assert len(calls) == 3 * 2 + 6


def test_padding_of_others_changes_no_bit(small, prompts):
    """An answer is the same in a batch with padding and in one without, where no mask is used."""
    for allowed in (ALLOWED, FOLLOW):
        mixed = write(TinySession(small[0], *prompts), allowed, eos_id=2)
        for i in range(3):
            same = write(TinySession(small[0], *[t[i : i + 1].repeat_interleave(3, 0) for t in prompts]), allowed, eos_id=2)
            n = same.ids.shape[1]
            assert torch.equal(mixed.ids[i, :n], same.ids[1]) and torch.equal(mixed.logprobs[i, :n], same.logprobs[1])


PLACES = [WORDS, [345], list(range(320, 360)), WORDS, WORDS]


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("plan", [[], [WORDS, [301]], [[302], [303]]], ids=["alone", "after a plan", "after forced words"])
def test_a_block_equals_one_forward_pass_of_everything(small, prompts, plan, mutual, monkeypatch):
    """The reference is a forward pass of prompt, plan and blanks, one row at a time, without cache or restriction."""
    block = Block.of(PLACES, 0, mutual)
    out = write(TinySession(small[0], *prompts), plan, block=block)
    mass = write(TinySession(small[0], *prompts), plan, block=block, valid_mass=True)
    with monkeypatch.context() as without:
        without.setattr(tiny_family, "cpu_decode_step", lambda language: None)
        plain = write(TinySession(small[0], *prompts), plan, block=block)
    assert torch.equal(out.ids, mass.ids) and torch.equal(out.ids, plain.ids)
    for i in range(3):
        ids, prefix, _, pixels = row(prompts, i)
        fed = torch.cat([ids, out.ids[i : i + 1, : len(plan)], torch.zeros(1, len(PLACES) - 1, dtype=torch.long)], 1)
        group = torch.zeros_like(fed)
        group[:, : ids.shape[1]] = prefix
        group[:, 1 - len(PLACES) :] = BLOCK if mutual else 0
        with torch.inference_mode():
            logits = small[0](fed, pixels, prefix_mask=group).logits[0, -len(PLACES) :]
        for place, words in enumerate(PLACES):
            chosen = logits[place, words]
            assert out.ids[i, len(plan) + place] == words[chosen.argmax()]
            assert torch.allclose(out.logprobs[i, len(plan) + place], chosen.log_softmax(-1).max(), atol=1e-4)
            share = logits[place].softmax(-1)[words].sum()
            assert torch.allclose(mass.valid_mass[i, len(plan) + place], share, atol=1e-4)
    changed = write(TinySession(small[0], *prompts), plan, block=Block.of(PLACES, 1, mutual))
    assert not torch.allclose(changed.logprobs, out.logprobs)


def test_a_block_needs_one_call_and_samples_share_it(small, prompts):
    calls = []
    hook = small[0].language.register_forward_hook(lambda *_: calls.append(1))
    try:
        drawn = write(
            TinySession(small[0], *prompts),
            [],
            block=Block.of(PLACES, 0, True),
            temperature=1.0,
            samples=5,
            generator=torch.Generator().manual_seed(0),
        )
    finally:
        hook.remove()
    assert len(calls) == 1 and drawn.ids.shape == (15, len(PLACES))
    assert all(set(drawn.ids[:, k].tolist()) <= set(words) for k, words in enumerate(PLACES))
    assert len({tuple(ids) for ids in drawn.ids[:5].tolist()}) > 1
    with pytest.raises(UserError, match="unknown length"):
        write(TinySession(small[0], *prompts), None, block=Block.of(PLACES, 0, True))

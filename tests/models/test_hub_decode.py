"""Our decoder over public models: the same answers as transformers' own `generate` under the same mask, alone and in company."""

import copy

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from vla.errors import UserError
from vla.models.decoding.allowed import Block, Free, Ordinal
from vla.models.decoding.decode import write
from vla.models.families.hub_session import HubSession

ACTIONS = list(range(300, 340))
ALLOWED = [ACTIONS, ACTIONS, [345], ACTIONS, [346], [347], ACTIONS]
TIE = 1e-4
"""In float32, ids may differ where the reference's two likeliest words are nearer than this."""


class Only(LogitsProcessor):
    """Allows these words at each step, and notes how far apart the best two were."""

    def __init__(self, allowed, start):
        self.allowed, self.start, self.apart = allowed, start, []

    def __call__(self, ids, scores):
        words = self.allowed[ids.shape[1] - self.start]
        only = torch.full_like(scores, -torch.inf)
        only[:, words] = scores[:, words]
        best = only.topk(2).values
        self.apart.append(best[:, 0] - best[:, 1])
        return only


@pytest.fixture(scope="module", params=["paligemma", "qwen2.5-vl", "smolvlm"])
def vlm(request, hub):
    return request.param, hub.model(request.param)


def reference(made, inputs, allowed):
    start = inputs["input_ids"].shape[1]
    only = Only(allowed, start)
    out = made.generate(
        **inputs,
        max_new_tokens=len(allowed),
        min_new_tokens=len(allowed),
        do_sample=False,
        logits_processor=LogitsProcessorList([only]),
    )
    return out[:, start:], torch.stack(only.apart, 1)


def assert_equal(ours, theirs, apart):
    for mine, other, gaps in zip(ours.tolist(), theirs.tolist(), apart.tolist(), strict=True):
        differ = next((k for k, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b), None)
        assert differ is None or gaps[differ] <= TIE, (mine, other, gaps)


@pytest.mark.parametrize("allowed", [ALLOWED, [list(range(10, 399))] * 6], ids=["actions", "words"])
def test_answers_are_those_of_generate(vlm, hub, allowed):
    name, made = vlm
    theirs, apart = reference(made, hub.prompts(name), allowed)
    assert_equal(write(HubSession(made, hub.prompts(name)), allowed).ids, theirs, apart)
    assert len(set(theirs[:, 0].tolist())) > 1  # the prompts matter


class Median(Only):
    """Allows the median alone, of words in the order of their values."""

    def __call__(self, ids, scores):
        words = torch.tensor(self.allowed[ids.shape[1] - self.start])
        shares = scores[:, words].double().softmax(-1).cumsum(-1)
        only = torch.full_like(scores, -torch.inf)
        return only.index_put((torch.arange(len(ids)), words[(shares < 0.5).sum(-1)]), torch.tensor(0.0))


def test_ordinal_places_take_the_median(vlm, hub):
    name, made = vlm
    inputs, falling = hub.prompts(name), ACTIONS[::-1]
    start = inputs["input_ids"].shape[1]
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    theirs = made.generate(**inputs, **how, logits_processor=LogitsProcessorList([Median([falling] * 4, start)]))
    ordinal = Ordinal(torch.tensor(falling), "median")
    ours = write(HubSession(made, hub.prompts(name)), [ordinal] * 4).ids
    assert torch.equal(ours, theirs[:, start:]) and not torch.equal(
        ours, write(HubSession(made, hub.prompts(name)), [ACTIONS] * 4).ids
    )


def test_answers_in_company_are_those_alone(vlm, hub):
    name, made = vlm
    together = write(HubSession(made, hub.prompts(name)), ALLOWED, valid_mass=True)
    for row in range(3):
        one = write(HubSession(made, hub.alone(name, hub.prompts(name), row)), ALLOWED, valid_mass=True)
        assert torch.equal(one.ids[0], together.ids[row])
        assert torch.allclose(one.logprobs[0], together.logprobs[row], atol=1e-4)
        assert torch.allclose(one.valid_mass[0], together.valid_mass[row], atol=1e-4)


def test_several_samples_share_one_reading_of_the_prompt(vlm, hub):
    name, made = vlm
    calls = []
    hook = made.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        drawn = write(
            HubSession(made, hub.prompts(name)), ALLOWED, temperature=1.0, samples=4, generator=torch.Generator().manual_seed(0)
        )
    finally:
        hook.remove()
    assert drawn.ids.shape == (12, len(ALLOWED)) and len(calls) == 4
    assert len({tuple(row) for row in drawn.ids[:4].tolist()}) > 1
    # What was drawn is as likely as it says: its words, forced one by one, with all others allowed beside them.
    likely = write(HubSession(made, hub.prompts(name)), ALLOWED)
    for row in range(3):
        best = likely.logprobs[row, 0]
        assert (drawn.logprobs[4 * row : 4 * row + 4, 0] <= best + 1e-5).all()


def test_padding_on_the_right_and_samples_of_the_likeliest_are_refused(vlm, hub):
    name, made = vlm
    inputs = hub.prompts(name)
    with pytest.raises(UserError, match="padded on the right"):
        write(HubSession(made, {**inputs, "attention_mask": inputs["attention_mask"].flip(1)}), ALLOWED)
    with pytest.raises(UserError, match="4 samples at temperature 0"):
        write(HubSession(made, inputs), ALLOWED, samples=4)


def test_free_text_and_then_actions_are_those_of_generate(vlm, hub):
    """Text up to an end that rows write at different places, or not at all; generate's mask forces what we fill up with."""
    name, made = vlm
    words = list(range(hub.WORDS))
    longest, start = 6, hub.prompts(name)["input_ids"].shape[1]
    said = write(HubSession(made, hub.prompts(name)), [words] * longest).ids
    end = int(said[0, 2])

    class Text(Only):
        def __call__(self, ids, scores):
            only = super().__call__(ids, scores)
            written = ids[:, start:]
            if written.shape[1] < longest:
                for row in (written == end).any(1).nonzero()[:, 0]:
                    only[row] = torch.full_like(only[row], -torch.inf)
                    only[row, end] = 0.0
            return only

    allowed = [words] * longest + ALLOWED
    text = Text(allowed, start)
    how = {"max_new_tokens": len(allowed), "do_sample": False, "logits_processor": LogitsProcessorList([text])}
    theirs = made.generate(**hub.prompts(name), **how)[:, start:]
    free = [Free(end)] * longest + ALLOWED
    ours = write(HubSession(made, hub.prompts(name)), free)
    assert_equal(ours.ids, theirs, torch.stack(text.apart, 1))
    first = said[0].tolist().index(end)
    assert (ours.ids[0, first:longest] == end).all() and (ours.logprobs[0, first + 1 : longest] == 0).all()
    calls = []
    hook = made.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        for row in range(3):
            calls.clear()
            one = write(HubSession(made, hub.alone(name, hub.prompts(name), row)), free)
            assert torch.equal(one.ids[0], ours.ids[row])
            if row == 0:
                # Alone, what the text is filled up with costs nothing.
                assert len(calls) == first + 1 + 4
    finally:
        hook.remove()


@pytest.mark.parametrize("plan", [[], [ACTIONS, [345]]], ids=["alone", "after a plan"])
def test_a_block_is_written_at_once(vlm, hub, plan):
    """Causal: as one reading of prompt, plan and blanks says; in company as alone. Mutual: later blanks matter."""
    name, made = vlm
    places = [ACTIONS, [345], list(range(310, 350)), ACTIONS]
    out = {
        mutual: write(HubSession(made, hub.prompts(name)), plan, block=Block.of(places, 7, mutual)) for mutual in (False, True)
    }
    assert torch.equal(out[False].ids[:, : len(plan) + 1], out[True].ids[:, : len(plan) + 1])
    assert not torch.allclose(out[False].logprobs[:, len(plan) + 2], out[True].logprobs[:, len(plan) + 2])
    for row in range(3):
        one = hub.alone(name, hub.prompts(name), row)
        for mutual, together in out.items():
            alone = write(HubSession(made, one), plan, block=Block.of(places, 7, mutual))
            assert torch.equal(alone.ids[0], together.ids[row]) and torch.allclose(
                alone.logprobs[0], together.logprobs[row], atol=1e-4
            )
        # Forced word by word: what comes after each is what the block said.
        blanks = [[w] for w in out[False].ids[row, : len(plan)].tolist()] + [[7]] * (len(places) - 1)
        for place, words in enumerate(places):
            after = write(HubSession(made, one), [*blanks[: len(plan) + place], words])
            assert torch.allclose(after.logprobs[0, -1], out[False].logprobs[row, len(plan) + place], atol=1e-4)
            assert after.ids[0, -1] == out[False].ids[row, len(plan) + place]


def test_heads_and_layers_that_are_not_known_are_refused(hub):
    made = copy.deepcopy(hub.model("paligemma"))
    text = made.config.get_text_config()
    text.layer_types, text.sliding_window = ["sliding_attention"] * text.num_hidden_layers, 4
    with pytest.raises(UserError, match="see a window"):
        write(HubSession(made, hub.prompts("paligemma")), [], block=Block.of([ACTIONS] * 3, 7, True))
    text.logits_scaling = 2.0
    with pytest.raises(UserError, match="scale their logits"):
        write(HubSession(made, hub.prompts("paligemma")), [ACTIONS])

"""The states are those that transformers' own `generate` and a whole forward pass give, whatever the batch and the layers."""

import re

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from vla.errors import UserError
from vla.promptable.layers import chosen_layers
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings

PROMPT = PromptTemplate("Q: is there a {object}? A:")


def represent(vlm, **settings):
    return PromptableRepresentation(*vlm, PROMPT, Settings(**{"batch": 2, "dtype": "float32", "words": 48, **settings}))


@pytest.mark.parametrize(("choice", "layers"), [("last-two", (7, 8)), ("middle", (4,)), ("mix", (2, 4, 6, 8)), ("input", (0,))])
def test_layers(choice, layers):
    assert chosen_layers(choice, 8) == layers
    assert all(0 <= layer <= 2 for layer in chosen_layers(choice, 2))


def test_unknown_layers_are_refused(tiny):
    with pytest.raises(UserError, match="last-two, middle, mix, input"):
        represent(tiny, layers="all")


@pytest.mark.parametrize("choice", ["last-two", "middle", "mix", "input"])
@pytest.mark.parametrize("lean", [True, False])
def test_our_model_gives_the_states_of_one_whole_pass(tiny, seen, choice, lean, monkeypatch):
    if not lean:  # as on a GPU, where modules read every token
        monkeypatch.setattr("vla.models.families.tiny.cpu_decode_step", lambda language: None)
    model, processor = tiny
    images, fields = seen(3, per_observation=2)
    made = represent(tiny, layers=choice, tokens=5)
    states = made(images, fields)
    assert states.tokens.shape == (3, *made.shape) and states.padding.shape == states.tokens.shape[:2]
    for row in range(3):
        words = processor.tokenizer(PROMPT.fill(fields[row]), add_special_tokens=False)["input_ids"]
        places = sum(processor.image_ids(), [])
        ids = torch.tensor([[*places, *words, *states.written[row].tolist()]])
        prefix = torch.arange(ids.shape[1])[None] < len(places) + len(words)
        found = whole_pass(model, ids, processor.pixels([images[row]]), prefix, made.layers)
        assert torch.allclose(states.tokens[row][~states.padding[row]], found, atol=1e-4)


def test_a_missing_image_equals_a_masked_one(tiny, seen):
    model, processor = tiny
    images, fields = seen(1)
    states = represent(tiny, tokens=5)(images, fields)
    words = processor.tokenizer(PROMPT.fill(fields[0]), add_special_tokens=False)["input_ids"]
    places = processor.image_ids()
    ids = torch.tensor([[*sum(places, []), *words, *states.written[0].tolist()]])
    count, end = len(places[0]), sum(map(len, places))
    there = (torch.arange(ids.shape[1]) < count) | (torch.arange(ids.shape[1]) >= end)
    prefix = torch.arange(ids.shape[1])[None] < end + len(words)
    found = whole_pass(model, ids, processor.pixels([[*images[0], None]]), prefix, (3, 4), there[None])
    assert torch.allclose(states.tokens[0][~states.padding[0]], found[there.repeat_interleave(2)], atol=1e-4)


@torch.no_grad()
def whole_pass(model, ids, pixels, prefix, layers, attention=None):
    kept = {}
    blocks = model.language.layers
    hooks = [b.register_forward_hook(lambda _, __, out, k=k: kept.update({k + 1: out})) for k, b in enumerate(blocks)]
    hooks.append(blocks[0].register_forward_pre_hook(lambda _, args: kept.update({0: args[0]})))
    kept[len(blocks)] = last = model.hidden(ids, pixels, attention, prefix).last_hidden_state
    for hook in hooks:
        hook.remove()
    kept[len(blocks)] = last
    found = [kept[k] if isinstance(kept[k], torch.Tensor) else kept[k][0] for k in layers]
    return torch.stack([state[0] for state in found], 1).flatten(0, 1)


@pytest.mark.parametrize("choice", ["last-two", "mix"])
def test_a_public_model_gives_the_states_of_generate(public, seen, choice):
    model, processor = public
    images, fields = seen(3, size=28)
    made = represent(public, layers=choice, tokens=4)
    states = made(images, fields)
    for row in range(3):
        inputs = processor(text="<image>" + PROMPT.fill(fields[row]), images=images[row], return_tensors="pt")
        inputs.pop("labels", None)
        out = model.generate(
            **inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, output_hidden_states=True, return_dict_in_generate=True
        )
        theirs = torch.cat([torch.stack([step[k][0] for k in made.layers], 1) for step in out.hidden_states])
        assert torch.equal(out.sequences[0, -5:-1], states.written[row])
        assert torch.allclose(states.tokens[row][~states.padding[row]], theirs.flatten(0, 1), atol=1e-4)


def test_exactly_so_many_tokens_and_never_an_end(tiny, seen):
    eos = tiny[1].tokenizer.eos_token_id
    for count in (1, 8):
        written = represent(tiny, tokens=count)(*seen(4)).written
        assert written.shape == (4, count) and not (written == eos).any()


def test_kept_parts_are_those_asked_for(tiny, seen):
    places, size = sum(map(len, tiny[1].image_ids())), 1
    whole = represent(tiny, layers="middle", tokens=3)(*seen(2, per_observation=2))
    for image, prompt in ((True, False), (False, True), (False, False)):
        made = represent(tiny, layers="middle", tokens=3, image=image, prompt=prompt)
        states = made(*seen(2, per_observation=2))
        assert made.shape[0] == image * places + prompt * 48 + 3
        for row in range(2):
            real = whole.tokens[row][~whole.padding[row]]
            parts = [real[:places] if image else real[:0], real[places:-3] if prompt else real[:0], real[-3:]]
            assert torch.equal(states.tokens[row][~states.padding[row]], torch.cat(parts[: 2 + size]))
    assert torch.equal(whole.tokens[whole.padding], torch.zeros_like(whole.tokens[whole.padding]))


def test_what_is_above_the_deepest_layer_is_not_computed(tiny, seen):
    computed = []
    blocks = tiny[0].language.layers
    hooks = [block.register_forward_hook(lambda *_, k=k: computed.append(k)) for k, block in enumerate(blocks)]
    try:
        for choice, deepest in (("input", -1), ("middle", 1), ("last-two", 3)):
            computed.clear()
            represent(tiny, layers=choice, tokens=0)(*seen(1))
            assert max(computed, default=-1) == deepest
    finally:
        for hook in hooks:
            hook.remove()


def test_the_input_layer_of_images_is_the_image_encoder(tiny, seen):
    images, fields = seen(2, per_observation=2)
    states = represent(tiny, layers="input", tokens=0, prompt=False)(images, fields)
    with torch.no_grad():
        encoded = tiny[0].vision(tiny[1].pixels(images))
    assert torch.allclose(states.tokens, encoded, atol=1e-6) and not states.padding.any()


def test_a_chat_template_that_is_not_there_is_refused(tiny, public):
    for vlm in (tiny, public):
        with pytest.raises(UserError, match="no chat template"):
            represent(vlm, chat=True)


def test_the_rest_of_a_batch_and_the_order_change_no_bit(tiny, public, seen):
    for vlm, size in ((tiny, 64), (public, 28)):
        images, fields = seen(9, size=size)
        made = represent(vlm, batch=4)
        together = made(images, fields)
        for row in range(9):
            alone = made([images[row]], [fields[row]])
            assert torch.equal(alone.tokens[0], together.tokens[row]), row


def test_padding_does_not_matter(tiny, seen):
    images, fields = seen(3)
    short, long = (represent(tiny, words=words)(images, fields) for words in (36, 60))
    for row in range(3):
        a, b = (s.tokens[row][~s.padding[row]] for s in (short, long))
        assert torch.allclose(a, b, atol=1e-4)


def test_the_model_is_frozen_and_the_identity_tells_models_and_settings_apart(tiny, public):
    made = represent(tiny)
    assert not tiny[0].training and not any(p.requires_grad for p in tiny[0].parameters())
    others = [represent(tiny, tokens=7), represent(tiny, dtype="float16"), represent(public)]
    assert len({str(r.identity) for r in (made, *others)}) == 4 and represent(tiny).identity == made.identity


def test_the_statistic_is_the_mode_unless_settings_say_so(tiny, seen):
    """The mode does not enter a cache's key, so that older caches stay valid."""
    before, median = represent(tiny), represent(tiny, decode="median")
    assert "decode" not in before.identity and median.identity == {**before.identity, "decode": "median"}
    integers = torch.tensor([tiny[1].tokenizer.get_vocab()[str(i)] for i in range(256)])
    images, fields = seen(3)
    bias = torch.zeros(len(tiny[0].get_input_embeddings().weight)).index_fill(0, integers, 50.0)
    logits = tiny[0].logits
    tiny[0].logits = lambda hidden: logits(hidden) + bias
    try:
        modes, medians = (made(images, fields).written for made in (before, median))
    finally:
        del tiny[0].logits
    assert torch.isin(modes, integers).all() and torch.isin(medians, integers).all() and not torch.equal(modes, medians)
    tiny[1].tokenizer.get_vocab = lambda: {"red": 3, **{str(digit): 10 + digit for digit in range(10)}}
    try:
        with pytest.raises(UserError, match="a tokenizer without integers and locations"):
            represent(tiny, decode="median")
    finally:
        del tiny[1].tokenizer.get_vocab
    with pytest.raises(UserError, match="mode, median, local-mean"):
        represent(tiny, decode="mean")


def test_answers_are_words(tiny, seen):
    made = represent(tiny)
    answers = made.answers(made(*seen(3)).written)
    assert len(answers) == 3 and all(isinstance(answer, str) for answer in answers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, fields: (images[:1] + [images[1] * 2], fields), "1, 2"),
        (lambda images, fields: (images, fields[:1]), "1 sets of fields"),
        (lambda images, fields: ([[], []], fields), "at least one"),
        (lambda images, fields: (images, [{"target": "ball"}] * 2), "unknown field {object}"),
        (lambda images, fields: (images, [{"object": "ball " * 60}] * 2), "set words to"),
        (lambda images, fields: ([i * 3 for i in images], fields), "takes at most 2"),
        (lambda images, fields: ([[i[0].astype(np.float32)] for i in images], fields), "uint8"),
    ],
)
def test_bad_observations_are_refused(tiny, seen, change, message):
    with pytest.raises(UserError) as caught:
        represent(tiny)(*change(*seen(2)))
    assert message in str(caught.value)


@pytest.mark.parametrize("same", [False, True])
def test_prompts_of_a_public_model_that_are_too_long_say_what_to_set(public, seen, same):
    """Of equal and of unequal lengths."""
    images, fields = seen(3)
    fields = [fields[2]] * 3 if same else fields
    for settings, fix in (({"tokens": 0, "words": 4}, "set words"), ({"words": 64, "image_tokens": 2}, "image_tokens: 4$")):
        with pytest.raises(UserError) as error:
            represent(public, batch=3, **settings)(images, fields)
        assert re.search(fix, error.value.fix)


@pytest.mark.parametrize(
    "settings", [{"tokens": -1}, {"tokens": 0, "image": False, "prompt": False}, {"batch": 0}, {"dtype": "x"}]
)
def test_contradictions_are_refused(settings):
    with pytest.raises(UserError):
        Settings(**settings)


def test_a_model_that_cannot_write_is_refused(tiny):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = CLIPModel(CLIPConfig(text_config=small, vision_config={**small, "image_size": 16, "patch_size": 8}))
    with pytest.raises(UserError, match="CLIPModel does not write"):
        PromptableRepresentation(model, tiny[1], PROMPT)

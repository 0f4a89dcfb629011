import copy
import shutil

import pytest
import torch

from vla.errors import UserError
from vla.models.load import new_tiny
from vla.promptable.cache import CachedRepresentation
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings

PROMPT = PromptTemplate("Q: is there a {object}? A:")


def represent(vlm, prompt=PROMPT, **settings):
    return PromptableRepresentation(*vlm, prompt, Settings(**{"batch": 4, "words": 48, **settings}))


def equal(a, b):
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("tokens", "padding", "written"))


def test_cached_states_equal_computed_ones_bit_for_bit(tiny, seen, tmp_path):
    images, fields = seen(7)
    plain = represent(tiny)
    expected = plain(images, fields)
    cached = CachedRepresentation(plain, tmp_path)
    # First in another batch and order, then from memory, then from disk.
    cached(images[4:6], fields[4:6])
    assert equal(cached(images, fields), expected) and equal(cached(images, fields), expected)
    assert (cached.hits.computed, cached.hits.memory) == (7, 9)
    again = CachedRepresentation(represent(tiny), tmp_path)
    assert equal(again(images, fields), expected)
    assert (again.hits.disk, again.hits.computed, again.hits.rate) == (7, 0, 1.0)


def test_equal_observations_of_a_call_are_computed_once(tiny, seen):
    images, fields = seen(2)
    cached = CachedRepresentation(represent(tiny))
    states = cached([images[0], images[1], images[0]], [fields[0], fields[1], fields[0]])
    assert cached.hits.computed == 2 and cached.hits.memory == 1
    assert torch.equal(states.tokens[0], states.tokens[2])


def test_image_prompt_model_and_settings_are_the_key(tiny, seen):
    images, fields = seen(2)
    base = CachedRepresentation(represent(tiny))
    other_model = new_tiny(tiny[1].tokenizer, seed=1, text_config=tiny[0].config.text_config.to_dict())
    others = [
        base.key(images[1], fields[0]),
        base.key(images[0], fields[1]),
        CachedRepresentation(represent(tiny, PromptTemplate("Q: {object}?"))).key(images[0], fields[0]),
        CachedRepresentation(represent(tiny, tokens=7)).key(images[0], fields[0]),
        CachedRepresentation(represent(other_model)).key(images[0], fields[0]),
    ]
    assert len({base.key(images[0], fields[0]), *others}) == 6
    assert base.key([images[0][0].copy()], {**fields[0], "unused": "x"}) == base.key(images[0], fields[0])


def test_how_a_model_reads_is_part_of_the_key(public, seen):
    images, fields = seen(1, size=28)
    model, processor = public
    other = copy.deepcopy(processor)
    other.image_processor.image_mean = [0.1, 0.2, 0.3]
    deeper = copy.deepcopy(model)
    deeper.config.text_config.rms_norm_eps = 0.1
    keys = [
        CachedRepresentation(represent(vlm)).key(images[0], fields[0]) for vlm in ((model, other), (deeper, processor), public)
    ]
    assert len(set(keys)) == 3 and CachedRepresentation(represent(public)).key(images[0], fields[0]) == keys[2]


def test_unequal_observations_are_refused_though_some_are_cached(tiny, seen):
    images, fields = seen(2)
    cached = CachedRepresentation(represent(tiny))
    cached(images, fields)
    for wrong in (([[*images[0] * 2], images[1]], fields), (images, fields[:1]), ([], [])):
        with pytest.raises(UserError, match="the same number of images"):
            cached(*wrong)


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "foreign"])
def test_damaged_and_foreign_entries_are_computed_again_and_reported(tiny, seen, tmp_path, harm):
    images, fields = seen(2)
    first = CachedRepresentation(represent(tiny), tmp_path)
    expected = first(images, fields)
    path, other = (first.path(first.key(i, f)) for i, f in zip(images, fields, strict=True))
    content = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(content[:-10])
    elif harm == "flipped":
        content[-5] ^= 1
        path.write_bytes(content)
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        shutil.copy(other, path)
    again = CachedRepresentation(represent(tiny), tmp_path)
    with pytest.warns(UserWarning, match=path.name):
        assert equal(again(images, fields), expected)
    assert (again.hits.disk, again.hits.computed) == (1, 1)
    assert (again.hits.foreign, again.hits.damaged) == ((1, 0) if harm == "foreign" else (0, 1))
    last = CachedRepresentation(represent(tiny), tmp_path)
    assert equal(last(images, fields), expected) and last.hits.rate == 1.0


def test_memory_is_bounded(tiny, seen):
    images, fields = seen(6)
    made = represent(tiny)
    one = sum(t.nbytes for t in vars(made(images[:1], fields[:1])).values()) / 2**20
    cached = CachedRepresentation(made, memory_mb=2.5 * one)
    expected = cached(images, fields)
    assert equal(cached(images, fields), expected)
    # Two entries fit: the last ones of a call, which the first ones of the next call replace.
    assert (cached.hits.memory, cached.hits.computed) == (2, 10)

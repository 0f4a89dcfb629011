"""The states of every public family, alone and in a batch, are those that its own `generate` gives."""

import numpy as np
import published
import pytest
import torch

from vla.errors import UserError
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings

PROMPT = PromptTemplate("Q: is there a {object}? A:")
OBJECTS = [{"object": "red ball"}, {"object": "green box with a long name"}, {"object": "key"}]


@pytest.fixture(scope="module", params=published.FAMILIES)
def toy(request):
    pytest.importorskip("num2words")
    model, processor = published.make(request.param)
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False  # seventeen tiles otherwise
    return model, processor


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_the_states_of_generate(toy, chat):
    model, processor = toy
    if chat and not getattr(processor, "chat_template", None):
        pytest.skip("no chat template")
    images = [[np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)] for i in range(3)]
    made, states = represented(model, processor, images, chat)
    for row, fields in enumerate(OBJECTS):
        text = made._family._wrap(PROMPT.fill(fields), 1)
        inputs = processor(text=[text], images=[images[row]], return_tensors="pt")
        inputs.pop("labels", None)
        how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
        out = model.generate(**inputs, **how, output_hidden_states=True, return_dict_in_generate=True)
        theirs = torch.cat([torch.stack([step[k][0] for k in made.layers], 1) for step in out.hidden_states])
        assert torch.equal(out.sequences[0, -4:-1], states.written[row])
        found = states.tokens[row][~states.padding[row]]
        assert torch.allclose(found, theirs.flatten(0, 1), atol=2e-4), (found - theirs.flatten(0, 1)).abs().max()


def represented(model, processor, images, chat):
    """The representation with the number of image tokens that the first refusal names, and the states."""
    settings, count = {"tokens": 3, "batch": 3, "dtype": "float32", "words": 100, "chat": chat}, 1
    for _ in range(2):
        made = PromptableRepresentation(model, processor, PROMPT, Settings(**settings, image_tokens=count))
        try:
            return made, made(images, OBJECTS)
        except UserError as error:
            assert "image tokens" in str(error)
            count = int(error.fix.split()[-1])
    raise AssertionError("the number of image tokens that was named is refused, too")

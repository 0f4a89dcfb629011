"""The fetched models themselves. Each test needs its model in the cache: `vla models fetch smollm2 efficientnet-lite0 minilm`."""

import pytest
import torch

from vla.fetched import is_fetched
from vla.language.encoders import SentenceEncoder
from vla.models.tiny.from_scratch import VLMSpec

pytestmark = pytest.mark.slow


def needs(name):
    return pytest.mark.skipif(not is_fetched(name), reason=f"vla models fetch {name}")


@needs("smollm2")
def test_smollm2_knows_opposites():
    model, processor = VLMSpec(language_weights="smollm2").make()
    ids = torch.tensor([processor.tokenizer("The opposite of hot is")["input_ids"]])
    with torch.no_grad():
        assert processor.tokenizer.decode(model(ids).logits[0, -1].argmax()) == " cold"
    assert model.config.own_words == 49152


@needs("efficientnet-lite0")
def test_efficientnet_features_are_finite_and_differ_between_images():
    model, _ = VLMSpec(vision_weights="efficientnet-lite0").make()
    images = torch.stack([torch.zeros(3, 64, 64), torch.linspace(-1, 1, 64).expand(3, 64, 64)])
    with torch.no_grad():
        features = model.vision.network(images)[0]
    assert features.isfinite().all() and (features[0] - features[1]).abs().mean() > 0.05


@needs("minilm")
def test_minilm_knows_paraphrases():
    one, two, three = SentenceEncoder("all-MiniLM-L6-v2")(["chop tree", "cut down a tree", "drink water"])
    assert float(one @ two) == pytest.approx(0.70, abs=0.01) and float(one @ three) == pytest.approx(0.15, abs=0.01)

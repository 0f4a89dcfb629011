import numpy as np
import pytest
import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, SiglipImageProcessor

from vla.models.load import new_tiny
from vla.models.tiny.text import train_tokenizer

TEXT = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 96}


def words():
    corpus = ["Q: is there a red ball in this image? A: yes", "Q: would a blue key be found here? A: no", "red green blue"]
    return train_tokenizer(corpus * 3, vocab_size=320)


@pytest.fixture(scope="session")
def tiny():
    """A small model of our own with four layers, and its processor; tests must not change it."""
    return new_tiny(words(), text_config=TEXT)


@pytest.fixture(scope="session")
def public():
    """A small random PaliGemma with its real processor (four tokens per image)."""
    processor = PaliGemmaProcessor(SiglipImageProcessor(size={"height": 28, "width": 28}, image_seq_length=4), words())
    torch.manual_seed(0)
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 32}
    text = {"model_type": "gemma", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "head_dim": 16}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(processor.tokenizer), "pad_token_id": 0}
    model = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=processor.image_token_id, projection_dim=32)
    )
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model.eval(), processor


@pytest.fixture
def seen():
    """Makes observations of one image each, and the fields of their prompts."""

    def make(count, size=40, per_observation=1, seed=0):
        rng = np.random.default_rng(seed)
        images = [[rng.integers(0, 255, (size, size, 3), np.uint8) for _ in range(per_observation)] for _ in range(count)]
        objects = ["red ball", "blue key", "green box with a very long name"]
        return images, [{"object": objects[i % 3]} for i in range(count)]

    return make

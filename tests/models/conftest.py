import importlib.util
from pathlib import Path

import pytest
import torch

from vla.models.load import new_tiny
from vla.models.tiny.text import train_tokenizer

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(["pick up the red cube", "where is the blue ball", "what colour is it"] * 5, vocab_size=300)


@pytest.fixture(scope="session")
def small(tokenizer):
    """A small model (two cameras of 64 and 16 tokens) and its processor; tests must not change it."""
    return new_tiny(tokenizer, text_config=SMALL)


@pytest.fixture(scope="session")
def hub():
    """Tiny instances of public models, and prompts for them."""
    spec = importlib.util.spec_from_file_location("hub", Path(__file__).with_name("hub.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prompts(small):
    """Three prompts of unequal length, padded on the right: ids, prefix, attention, pixels."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([84, 90, 87])
    ids = torch.randint(300, 500, (3, 90), generator=generator)
    ids[:, :80] = small[1].image_token_id
    attention = torch.arange(90) < lengths[:, None]
    return ids, attention.clone(), attention, torch.rand(3, 2, 3, 64, 64, generator=generator)

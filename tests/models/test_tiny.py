"""The shipped models: small enough, described, and what their cards say they are."""

import hashlib
import json

import numpy as np
import pytest
import torch

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.fetched import fetch
from vla.language.encoders import load_encoder
from vla.models.load import SHIPPED, load_vlm, shipped_folder
from vla.models.tiny.reading import put_named_encoder
from vla.policies.local import LocalPolicy
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

TYPES = {
    "tiny": {"where", "colour", "shape", "count", "relation", "holding"},
    "tiny-minilm": {"where", "colour", "shape", "count", "relation", "holding"},
    "tiny-babyai": {"where", "colour", "shape", "count", "present", "ahead", "wall"},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_says_which_weights_how_they_were_made_and_how_good_they_are(name):
    card = json.loads((shipped_folder(name) / "card.json").read_text())
    weights = (shipped_folder(name) / "model.safetensors").read_bytes()
    assert len(weights) <= 10e6 and hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert f"vla fit -c {SHIPPED[name]}" in card["recipe"] and card["commit"]
    assert set(card["accuracy"]["types"]) == TYPES[name]


def test_it_answers_in_words_and_writes_legal_actions():
    policy = LocalPolicy(*load_vlm("tiny"), PolicyContract({EMBODIMENT_NAME: EMBODIMENT}))
    images = {c.name: np.full((c.height, c.width, 3), 60, np.uint8) for c in EMBODIMENT.cameras}
    assert policy.ask([images], ["is the gripper holding anything"])[0].text in ("yes", "no")


def test_a_model_behind_a_fetched_encoder_needs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="has not been fetched") as error:
        load_vlm("tiny-minilm")
    assert error.value.fix == "run `vla models fetch minilm`"


@pytest.mark.slow
def test_its_encoder_is_the_fetched_one_and_no_other():
    fetch("minilm")
    model, _ = load_vlm("tiny-minilm")
    encoder, _ = load_encoder("minilm")
    assert all(torch.equal(value, model.text_encoder.state_dict()[name]) for name, value in encoder.state_dict().items())
    model.config.text_encoder = "minilm 000000000000"
    with pytest.raises(UserError, match="was trained behind minilm 000000000000"):
        put_named_encoder(model)

"""The shipped model: small enough, described, and what its card says it is."""

import hashlib
import json

import numpy as np
import pytest

from vla.contract import PolicyContract
from vla.models.load import load_vlm, tiny_folder
from vla.policies.local import LocalPolicy
from vla.sim.embodiment import EMBODIMENT, EMBODIMENT_NAME


@pytest.fixture(scope="module")
def card():
    return json.loads((tiny_folder() / "card.json").read_text())


def test_weights_are_those_of_the_card_and_at_most_10_mb(card):
    weights = (tiny_folder() / "model.safetensors").read_bytes()
    assert len(weights) <= 10e6 and hashlib.sha256(weights).hexdigest() == card["sha256"]


def test_card_says_how_it_was_made_and_how_good_it_is(card):
    assert card["recipe"].startswith("vla fit -c configs/pretrain-tiny.yaml") and card["commit"]
    assert set(card["accuracy"]["types"]) == {"where", "colour", "shape", "count", "relation", "holding"}


def test_it_answers_in_words_and_writes_legal_actions():
    policy = LocalPolicy(*load_vlm("tiny"), PolicyContract({EMBODIMENT_NAME: EMBODIMENT}))
    images = {c.name: np.full((c.height, c.width, 3), 60, np.uint8) for c in EMBODIMENT.cameras}
    assert policy.ask([images], ["is the gripper holding anything"])[0].text in ("yes", "no")

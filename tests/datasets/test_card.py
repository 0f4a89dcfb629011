import dataclasses

import numpy as np
import pytest
import yaml

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.statistics import space_with_statistics
from vla.errors import UserError
from vla.space import Space

SPACE = Space(("x", "still"), ("m", "rad"), (-1.0, -1.0), (1.0, 1.0))


@pytest.fixture
def card():
    values = np.random.default_rng(0).normal(0, 0.3, (100, 2))
    values[:, 1] = -0.0
    action = space_with_statistics(SPACE, values)
    robot = Embodiment((Camera("front", 64, 64),), SPACE, action, control_hz=20.0, keys={"a": {"b": "front"}})
    return DatasetCard(
        "tabletop",
        "robot",
        "arm",
        robot,
        counts={"episodes": 3, "discarded": 1},
        questions={"where": 2},
        conventions={"pictures": "upright RGB, Größe 64"},
        wordings=["lift the {name}"],
        generator={"command": "vla collect", "seed": 3},
    )


def test_round_trip_is_exact(card, tmp_path):
    card.save(tmp_path)
    again = DatasetCard.load(tmp_path)
    assert again == card and again.statistics["action"]["mean"] == card.spec.action.statistics["mean"]
    assert again.spec.action.constant == (None, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown keys: colour"),
        ({"kind": "sounds"}, "kind is 'sounds'"),
        ({"counts": [1]}, "counts is a list"),
        ({"name": None, "spec": {"cameras": []}}, "not a contract"),
    ],
)
def test_mistakes_are_named_with_the_file(card, tmp_path, change, message):
    card.save(tmp_path)
    file = tmp_path / "card.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))
    with pytest.raises(UserError, match=message) as caught:
        DatasetCard.load(tmp_path)
    assert caught.value.where == str(file)


@pytest.mark.parametrize(("text", "message"), [("a: [", "not YAML"), ("- 1", "not a mapping"), ("name: x", "missing keys: kind")])
def test_what_is_no_card_is_refused(tmp_path, text, message):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        DatasetCard.load(tmp_path)


def test_no_card(tmp_path, card):
    with pytest.raises(UserError, match="no dataset card"):
        DatasetCard.load(tmp_path)
    assert dataclasses.replace(card, name="b") != card

"""The contract that follows from the cards: the prompt, and binary dimensions, which have two values in all of a robot's data."""

import dataclasses

import numpy as np

from vla.datasets.card import DatasetCard
from vla.datasets.statistics import space_with_statistics
from vla.sim.tabletop.embodiment import EMBODIMENT
from vla.space import Space
from vla.training.contract import ContractOptions, configured


def card(values, kind="robot", embodiment="arm"):
    """A card of a robot whose two actions had these values [N, 2]."""
    space = Space(("x", "claw"), ("m", ""), (-1.0, 0.0), (1.0, 1.0))
    action = space_with_statistics(space, values) if values is not None else space
    return DatasetCard("data", kind, embodiment, dataclasses.replace(EMBODIMENT, action=action))


def data(*claw):
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(-1, 1, 300), rng.choice(claw, 300)], 1)


def binary(cards, **options):
    contract = configured(ContractOptions(plan=(), **options), dict(enumerate(cards)))
    return {name: robot.action.binary for name, robot in contract.embodiments.items()}


def test_all_data_sets_of_a_robot_must_agree(tmp_path):
    closed = card(data(0.0, 1.0))
    assert binary([closed]) == {"arm": (None, (0.0, 1.0))}
    assert binary([closed, card(data(0.0, 1.0))]) == {"arm": (None, (0.0, 1.0))}
    for other in (card(data(0.0, 0.5, 1.0)), card(data(0.0, 0.5)), card(None)):
        assert binary([closed, other]) == binary([other, closed]) == {"arm": (None, None)}
    assert binary([closed, card(data(0.0, 0.5), embodiment="leg")]) == {"arm": (None, (0.0, 1.0)), "leg": (None, (0.0, 0.5))}
    assert binary([card(None, "questions"), closed]) == {"arm": (None, (0.0, 1.0))}
    assert binary([closed], binary=False) == {"arm": (None, None)}
    closed.save(tmp_path)
    assert "binary" not in (tmp_path / "card.yaml").read_text() and DatasetCard.load(tmp_path) == closed


def test_a_robot_without_proprioception_has_no_state_in_its_prompt():
    none = dataclasses.replace(EMBODIMENT, state=Space((), (), (), ()))
    cards = {"data": DatasetCard("data", "robot", "arm", none)}
    assert "state" not in configured(ContractOptions(plan=()), cards).prompt
    assert configured(ContractOptions(plan=(), prompt="{instruction} {state}"), cards).prompt == "{instruction} {state}"
    assert "state" in configured(ContractOptions(plan=()), {"data": card(None)}).prompt

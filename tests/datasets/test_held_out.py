"""What robot data must not have, and where it is found."""

import dataclasses

import pytest

from vla.cli import main
from vla.datasets.card import DatasetCard
from vla.datasets.held_out import check_held_out, held_out_words
from vla.errors import UserError


def describe(folder, **card):
    dataclasses.replace(DatasetCard.load(folder), **card).save(folder)
    return folder


def test_data_without_held_out_words_pass(make, tmp_path, capsys):
    folder = describe(make(tmp_path), generator={"task": "lift", "table": [0.2, 0.2, 0.2], "sizes": False})
    assert held_out_words(folder, ["crimson", "orange", "reddish", "lif", "lift the", (0.2, 0.2)]) == []
    assert main(["data", "held-out", str(folder)]) == 0
    assert "45 records and the card have none of" in capsys.readouterr().out
    assert main(["data", "held-out", str(folder), "--words", "violet, red cube"]) == 2
    assert "'red cube' is held out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ({"instruction": "Lift the Crimson-block."}, "crimson block"),
        ({"target": "orange ball"}, "ball"),
        ({"plan": {"words": "orange ball"}}, "orange"),
        ({"questions": [{"type": "where", "question": "where is it", "answer": ["the tin", [0.5, 0.5]]}]}, "tin"),
        ({"variation": {"name": "a", "table": [0.62, 0.48, 0.33]}}, (0.62, 0.48, 0.33)),
        ({"variation": {"table": "table_ceramic"}}, "table_ceramic"),
    ],
)
def test_a_record_that_has_one_is_named(make, tmp_path, entry, value):
    def change(members):
        info = members["json"]
        return {**members, "json": {**info, **entry}} if (info["episode"], info["step"]) == (1, 4) else members

    folder = make(tmp_path, change=change)
    (found,) = held_out_words(folder, ["hoist", value])
    assert found.value == value and "e000001_s0004" in found.where
    with pytest.raises(UserError, match="held out, but the data have it") as error:
        check_held_out(folder, [value])
    assert error.value.where == found.where


@pytest.mark.parametrize(
    "card", [{"generator": {"table": (0.62, 0.48, 0.33)}}, {"wordings": ["x", "hoist it"]}, {"conventions": {"hoist": "up"}}]
)
def test_a_card_that_has_one_is_named(make, tmp_path, card):
    (found,) = held_out_words(describe(make(tmp_path), **card), ["hoist", (0.62, 0.48, 0.33)])
    assert found.where.endswith("card.yaml")

import dataclasses
import math
from pathlib import Path

import pytest
import yaml

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.operations import OPERATIONS, STEPS
from vla.datasets.formats.conventions.source_card import load_source_card, shipped, source_card
from vla.datasets.formats.readers.recognise import READERS
from vla.errors import UserError
from vla.space import Space

GOOD = {
    "cameras": {"front": {"key": "obs/front"}},
    "action": [{"key": "action", "names": ["x", "grip"], "units": ["m", ""], "do": [{"scale": {"by": 2.0}}]}],
    "instruction": "text",
    "control_hz": 5,
}
TURNING = {"key": "pose", "names": ["roll", "pitch", "yaw"], "units": ["rad"], "role": "rotation", "do": ["difference"]}


@pytest.mark.parametrize("name", ["bridge", "bridge_oxe", "droid", "fractal", "kuka", "libero", "robomimic"])
def test_shipped_cards_are_whole_and_say_what_they_were_checked_against(name):
    assert name in shipped()
    card = load_source_card(name)
    assert card.verified.startswith("unverified against data")
    for convention in (card.gripper, card.rotation, card.frame):
        assert convention != "not said"
    assert card.cameras and card.action and card.state
    grippers = [part for part in card.action if part.role == "gripper"]
    assert len(grippers) == 1 and grippers[0].low is not None and grippers[0].high is not None
    assert sum(len(part.names) for part in card.action) == 7


def test_a_file_is_read_as_it_stands(tmp_path):
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(GOOD))
    card = load_source_card(str(tmp_path / "my.yaml"))
    assert card == source_card(GOOD, "x")
    assert card.action[0].operations() == [("scale", {"by": 2.0})] and card.instruction == ("text",)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"colour": 1}, "unknown keys: colour"),
        ({"alignment": "between"}, "one of pre, post"),
        ({"cameras": {"front": {"orientation": "upright"}}}, "no key"),
        ({"cameras": {"front": {"key": "a", "orientation": "sideways"}}}, "raw_opengl"),
        ({"action": [{"key": "a", "names": ["x"], "do": ["eval"]}]}, "unknown operation 'eval'"),
        ({"action": [{"key": "a", "names": ["x"], "do": [{"scale": {"with": 1}}]}]}, "scale takes by, offset"),
        ({"action": [{"key": "a"}]}, "no names"),
        ({"action": [{"names": ["x"]}]}, "a key or a constant"),
        ({"action": [{"key": "a", "names": ["x"], "units": ["m", "m"]}]}, "2 units for 1 names"),
        ({"action": [{"key": "a", "names": ["x"], "do": [{"scale": {"by": "much"}}]}]}, "scale takes by, offset"),
        ({"action": [{"key": "a", "names": ["x"], "low": "little"}]}, "low is 'little'"),
        ({"action": [{"key": "a", "names": ["x"], "high": float("nan")}]}, "high is nan"),
        ({"action": [{"key": "a", "names": ["x"], "low": 1, "high": 1}]}, "limits are 1 to 1"),
        ({"state": [{"key": "a", "names": ["x"]}, {"key": "b", "names": ["x"]}]}, "x more than once"),
        ({"cameras": {"front": {"key": ["a"]}}}, "key is ['a']"),
        ({"gripper": {"open": 1}}, "gripper is a dict"),
        ({"action": {"key": "a"}}, "not a list"),
        ({"steps": ["shuffle"]}, "drop_first"),
        ({"control_hz": 0}, "actions per second"),
        ({"control_hz": "fast"}, "actions per second"),
        ({"text": 3}, "must be a str"),
        ({"state": [TURNING]}, "{difference: {rotation: FORM}}, with FORM one of axis_angle, euler_xyz"),
        ({"action": [{**TURNING, "role": "other"}], "rotation": "not said"}, "do not differ number by number"),
        ({"action": [TURNING], "rotation": "quaternion_xyzw"}, "give the 4 values of a rotation as one part"),
        ({"action": [{**TURNING, "units": []}], "rotation": "euler_xyz"}, "the unit of its angles is ''"),
        ({"action": [{**TURNING, "names": ["yaw"], "units": ["turns"]}]}, "the unit of its angles is 'turns'"),
        ({"action": [{**TURNING, "names": [n]} for n in ("roll", "yaw")], "rotation": "euler_xyz"}, "as one part"),
        ({"action": [{**TURNING, "do": ["difference", "axis_angle_to_euler"]}], "rotation": "euler_xyz"}, "is not said"),
        ({"action": [{**TURNING, "do": [{"difference": {"rotation": "rpy"}}]}]}, "difference: rotation is 'rpy'"),
        ({"state": [{**TURNING, "do": [{"quaternion_to_axis_angle": {"order": "zyx"}}]}]}, "use one of xyzw, wxyz"),
    ],
)
def test_mistakes_are_named(change, why):
    with pytest.raises(UserError) as caught:
        source_card({**GOOD, **change}, "my.yaml")
    assert why in str(caught.value) and "my.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "rotation", "expected"),
    [
        (TURNING, "euler_zyx", {"rotation": "euler_zyx", "unit": 1.0}),
        ({**TURNING, "role": "other"}, "axis_angle", {"rotation": "axis_angle", "unit": 1.0}),
        ({**TURNING, "units": ["degrees"]}, "euler_xyz", {"rotation": "euler_xyz", "unit": math.pi / 180}),
        ({**TURNING, "units": ["deg"], "do": [{"difference": {"unit": 1}}]}, "euler_xyz", {"rotation": "euler_xyz", "unit": 1}),
        ({**TURNING, "units": [], "do": [{"difference": {"unit": 2}}]}, "axis_angle", {"rotation": "axis_angle", "unit": 2}),
        ({**TURNING, "names": ["x", "y", "z", "w"], "units": []}, "quaternion_xyzw", {"rotation": "quaternion_xyzw"}),
        ({**TURNING, "names": ["yaw"]}, "not said", {"rotation": "angle", "unit": 1.0}),
        ({**TURNING, "role": "joint"}, "axis_angle", {}),
        ({**TURNING, "names": ["x", "y", "z"], "role": "other"}, "axis_angle", {}),
    ],
)
def test_the_difference_of_a_rotation_has_the_form_of_its_result(part, rotation, expected):
    card = source_card({**GOOD, "action": [part], "rotation": rotation}, "my.yaml")
    assert card.action[0].operations() == [("difference", expected)]
    explicit = {**part, "do": [{"difference": {"rotation": "matrix_rows"}}, "matrix_rows_to_axis_angle"]}
    assert source_card({**GOOD, "state": [explicit]}, "my.yaml").state[0].operations()[0][1] == {"rotation": "matrix_rows"}


def test_neither_file_nor_shipped(tmp_path):
    with pytest.raises(UserError, match="no such card") as caught:
        load_source_card("brigde")
    assert "bridge" in str(caught.value)
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not YAML"):
        load_source_card(str(tmp_path / "bad.yaml"))


def test_cards_are_plain_values():
    assert dataclasses.asdict(load_source_card("libero"))["alignment"] == "post"


def test_the_page_names_every_card_and_operation():
    page = (Path(__file__).parents[3] / "docs/data.md").read_text()
    assert [name for name in (*shipped(), *OPERATIONS, *STEPS, *READERS) if f"`{name}`" not in page] == []
    fields = [f.name for kind in (DatasetCard, Embodiment, Space, Camera) for f in dataclasses.fields(kind)]
    assert [name for name in fields if f"`{name}`" not in page and f"{name}," not in page and f"{name}}}" not in page] == []


def test_the_example_of_lerobot():
    card = load_source_card("lerobot_so101")
    assert card.instruction == ("task",) and card.mode == "absolute"
    assert [part.role for part in card.action] == ["joint", "gripper"] and len(card.action[0].names) == 5


def test_a_value_to_be_decided_is_not_a_word_of_a_title(tmp_path):
    (tmp_path / "card.yaml").write_text("title: DECIDE later\n# mode: DECIDE\nmode: delta  # DECIDE: delta or absolute\n")
    assert load_source_card(str(tmp_path / "card.yaml")).title == "DECIDE later"

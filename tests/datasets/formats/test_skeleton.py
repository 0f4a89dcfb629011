"""`vla data card`: the card that it writes, what it guesses, and what becomes of its DECIDEs."""

import re

import numpy as np
import pyarrow as pa
import pytest
from lerobot_files import describe, edit, features, write_v3
from rlds_files import plain
from test_hdf5 import libero
from test_hdf5_episodes import aloha
from test_tars import robot_tars

from vla.cli import main
from vla.contract import Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.source_card import Part, SourceCard, load_source_card
from vla.datasets.formats.inspection import guesses
from vla.datasets.formats.inspection.guesses import Sample
from vla.datasets.formats.inspection.names import mismatches
from vla.datasets.formats.inspection.skeleton import skeleton
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.recognise import open_reader
from vla.errors import UserError

pytest.importorskip("google_crc32c")
DECISIONS = {
    "orientation": "upright",
    "mode": "absolute",
    "alignment": "pre",
    "gripper": "0 closed, 1 open",
    "control_hz": "30",
    "text": "open the lid",
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A LeRobot data set of an arm that nobody knows."""
    folder = write_v3(tmp_path_factory.mktemp("foreign") / "arm")
    named = {
        name: {"dtype": "float32", "shape": [2], "names": ["joint_1.pos", "gripper.pos"]}
        for name in ("action", "observation.state")
    }
    describe(folder, features=features(**named), robot_type="my_arm")
    # The actions are the states that follow.
    edit(
        folder,
        lambda table, _: table.set_column(
            0, "action", pa.array([[a + 0.1, b] for a, b in table["observation.state"].to_pylist()])
        ),
    )
    return folder


def filled(text):
    return re.sub(r"(\w+): DECIDE", lambda match: f"{match[1]}: {DECISIONS[match[1]]}", text)


def vla(capsys, *words):
    code = main(["data", *map(str, words)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_from_a_foreign_arm_to_shards(foreign, tmp_path, capsys):
    file, out = tmp_path / "card.yaml", tmp_path / "out"
    code, text, _ = vla(capsys, "card", foreign, "--out", file)
    assert code == 0 and "3 values to decide" in text
    written = file.read_text()
    assert "embodiment: my_arm  # found: robot_type in meta/info.json" in written
    assert "control_hz: 10.0  # found: fps" in written and "mode: absolute  # guessed: the actions are near" in written
    assert "instruction: [task]  # found: 'pick it' and 1 more" in written and "its images are 64 x 64" in written
    assert (
        "names: [joint_1.pos], pick: [0], role: joint}" in written
        and "names: [gripper.pos], pick: [1], role: gripper}" in written
    )
    # It is refused at the first line to fill in, which the message names with its choices.
    line = next(n for n, text in enumerate(written.splitlines(), 1) if "orientation: DECIDE" in text)
    code, _, error = vla(capsys, "convert", foreign, out, "--card", file)
    assert code == 2 and f"card.yaml, line {line}: orientation is still to be decided; so are 2 more" in error
    assert "Fix: in place of DECIDE: upright, raw_opengl" in error and not out.exists()
    # What was filled in is not overwritten.
    file.write_text(filled(written))
    assert vla(capsys, "card", foreign, "--out", file)[0] == 2 and "DECIDE" not in file.read_text().partition("title")[2]
    code, text, _ = vla(capsys, "inspect", foreign, "--card", file)
    assert code == 0 and "all names of the card are in the data" in text
    code, text, _ = vla(capsys, "convert", foreign, out, "--card", file, "--workers", 1)
    assert code == 0 and "assumed" not in text
    spec = DatasetCard.load(out).spec
    assert spec.mode == "absolute" and spec.gripper == "0 closed, 1 open" and spec.action.names == ("joint_1.pos", "gripper.pos")


@pytest.mark.parametrize(
    ("make", "lines"),
    [
        (lambda f: aloha(f / "aloha"), ["text: DECIDE", "alignment: DECIDE", "gripper: DECIDE", "control_hz: DECIDE"]),
        (
            lambda f: plain(f / "rlds"),
            ["alignment: pre  # guessed", "instruction: [language_instruction]", "names: [a6], pick: [6], role: gripper"],
        ),
        (
            lambda f: robot_tars(f / "tars"),
            ["mode: DECIDE", "gripper: DECIDE", "instruction: [instruction]  # found: 'do 0' and 2 more"],
        ),
        (
            lambda f: libero(f / "a.hdf5"),
            [
                "fit these data: libero",
                "orientation: raw_opengl}  # found: macros_image_convention",
                "control_hz: 20.0  # found: control_freq",
            ],
        ),
    ],
)
def test_every_robot_format(tmp_path, make, lines):
    reader = open_reader(make(tmp_path))
    if reader.path.is_dir():
        assert reader.path.name in ("aloha", "rlds", "tars")
    else:
        reader = open_reader(reader.path)
    text = skeleton(reader)
    for line in lines:
        assert line in text
    (tmp_path / "card.yaml").write_text(filled(text))
    card = load_source_card(str(tmp_path / "card.yaml"))
    assert not mismatches(card, reader.fields())
    assert make_job(ConvertOptions(str(reader.path), str(tmp_path / "out"), card=str(tmp_path / "card.yaml"))).parts


RNG = np.random.default_rng(0)
STATES = np.cumsum(RNG.normal(size=(40, 2)), 0)


@pytest.mark.parametrize(
    ("actions", "names", "expected"),
    [
        (STATES + 0.01, ("a", "b"), "absolute"),
        (np.append(np.diff(STATES, axis=0), [[0, 0]], 0) * 20, ("a", "b"), "delta"),
        (RNG.normal(size=(40, 2)), ("a", "b"), ""),
        (RNG.normal(size=(40, 2)), ("dx", "dy"), "delta"),
        (np.ones((40, 2)), ("a", "b"), ""),
    ],
)
def test_the_mode_is_guessed_from_the_states(actions, names, expected):
    card = SourceCard(action=(Part("action", names),), state=(Part("state", ("a", "b")),))
    states = np.concatenate([STATES[:1], STATES[:-1]]) if expected == "absolute" else STATES
    assert guesses.mode(card, Sample([actions], [states]))[0] == expected
    assert guesses.mode(card, Sample())[0] == ""


@pytest.mark.parametrize(
    ("name", "values", "meaning"),
    [
        ("gripper_open", (0, 1), "0 closed, 1 open"),
        ("gripper_closedness", (-1, 1), "-1 open, 1 closed"),
        ("gripper_open", (2, 97), "0 closed, 100 open"),
        ("gripper.pos", (0, 1), ""),
        ("open_loop", (0, 1), ""),
    ],
)
def test_what_1_means_is_read_from_a_name_alone(name, values, meaning):
    card = SourceCard(action=(Part("action", ("x", name)),))
    assert guesses.gripper(card, np.stack([np.zeros(2), values], 1))[0] == meaning


def test_names_that_the_data_do_not_have(foreign, tmp_path, capsys):
    (tmp_path / "card.yaml").write_text("""
cameras: {front: {key: observation.images.front}, hand: {key: observation.images.wrist}, side: {key: action}}
state: [{key: state, names: [a]}, {key: observation.state, pick: [2], names: [b]}]
action: [{key: action, names: [a, b, c]}]
instruction: [language_instruction]
""")
    code, text, _ = vla(capsys, "inspect", foreign, "--card", tmp_path / "card.yaml")
    assert code == 1 and "hand" not in text.partition("the card does not fit")[2]
    for line in (
        "images: observation.images.top, observation.images.wrist",
        "numbers: action (2), observation.state (2)",
        "texts: task",
        "camera front: there is no observation.images.front",
        "camera side: action holds numbers",
        "state a: there is no state",
        "state b: observation.state: it has 2 values, the card picks [2]",
        "action a, b, c: action: it has 2 values for 3 names",
        "instruction: there is no language_instruction",
    ):
        assert line in text


def test_a_wrong_instruction_key_is_told_the_right_one(foreign, tmp_path):
    (tmp_path / "card.yaml").write_text("""
cameras: {top: {key: observation.images.top}}
action: [{key: action, names: [a, b]}]
instruction: [language_instruction]
""")
    with pytest.raises(UserError, match="there is no language_instruction; there are texts in task") as error:
        make_job(ConvertOptions(str(foreign), str(tmp_path / "out"), card=str(tmp_path / "card.yaml")))
    assert "instruction: [task]" in error.value.fix and "--instruction" not in error.value.fix


def test_what_was_assumed_stays_said(foreign, tmp_path, capsys):
    code, text, _ = vla(capsys, "convert", foreign, tmp_path / "out", "--workers", 1, "--size", 128)
    assert code == 0 and "enlarged, which adds no detail: top from 64 x 64, wrist from 64 x 64" in text
    card = DatasetCard.load(tmp_path / "out")
    assert card.conventions["not said"] == "orientation, mode, alignment" and "pictures" not in card.conventions
    text = vla(capsys, "inspect", tmp_path / "out")[1]
    assert "mode: not said (assumed: delta)" in text and "control_hz: 10 (card.yaml)" in text
    assert isinstance(card.spec, Embodiment) and card.spec.mode == "delta"
    # Edited by hand.
    card.conventions["not said"] = True
    card.save(tmp_path / "out")
    assert vla(capsys, "inspect", tmp_path / "out")[0] == 0

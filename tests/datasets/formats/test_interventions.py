"""Who acted in each step, as the data say it, and its weight in training."""

import json

import lerobot_files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla import cli
from vla.datasets.formats.lerobot_source import LeRobotSource
from vla.datasets.robot import RobotSource
from vla.errors import UserError

KEY = "complementary_info.is_intervention"
CARD = f"""
cameras: {{top: {{key: observation.images.top}}}}
action: [{{key: action, names: [x, gripper]}}]
state: [{{key: observation.state, names: [a, b]}}]
instruction: [task]
intervention: {KEY}
"""
BY_PERSON = (2, 3)
"""The steps of every episode in which a person acts."""


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    folder = lerobot_files.write_v2(tmp_path_factory.mktemp("interventions") / "arm")
    for path in (folder / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        flags = pa.array([[float(step in BY_PERSON)] for step in range(table.num_rows)], pa.list_(pa.float32()))
        pq.write_table(table.append_column(KEY, flags), path)
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"][KEY] = {"dtype": "float32", "shape": [1], "names": None}
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "card.yaml").write_text(CARD)
    return folder


def steps_drawn(source):
    source.chunk = 3
    samples = [source.sample(i, np.random.default_rng(0)) for i in range(len(source))]
    return [s.step for s in samples], {s.step: int(s.mask.sum()) for s in samples if s.episode == 0}


@pytest.mark.parametrize("converted", [False, True], ids=["direct", "converted"])
def test_steps_of_a_person_are_weighed(lerobot, converted, tmp_path):
    if converted:
        assert cli.main(["data", "convert", str(lerobot), str(tmp_path / "own"), "--card", str(lerobot / "card.yaml")]) == 0

    def source(**options):
        folder = tmp_path / "own" if converted else lerobot
        kind = RobotSource if converted else LeRobotSource
        return kind(folder, **options, **({} if converted else {"conventions": str(lerobot / "card.yaml")}))

    steps, actions = steps_drawn(source())
    assert len(steps) == sum(lerobot_files.LENGTHS)
    # No chunk has the actions of both.
    assert actions == {0: 2, 1: 1, 2: 2, 3: 1, 4: 2, 5: 1}
    steps, _ = steps_drawn(source(split="train", holdout=0.3, actors={"person": 3, "policy": 0}))
    assert sorted(steps) == sorted([step for _ in lerobot_files.LENGTHS[:2] for step in BY_PERSON] * 3)
    # Held-out data are measured as they are.
    assert len(source(split="val", holdout=0.3, actors={"policy": 0})) == lerobot_files.LENGTHS[2]
    with pytest.raises(UserError, match="expert acts in no step") as error:
        len(source(split="train", actors={"expert": 2}))
    assert "person, policy" in error.value.fix


def test_data_that_do_not_say_who_acted(tmp_path):
    folder = lerobot_files.write_v2(tmp_path / "arm")
    (tmp_path / "card.yaml").write_text(CARD)
    with pytest.raises(UserError, match=f"there is no {KEY}"):
        _ = LeRobotSource(folder, str(tmp_path / "card.yaml")).card
    with pytest.raises(UserError, match="person acts in no step") as error:
        len(LeRobotSource(folder, split="train", actors={"person": 2}))
    assert "do not say who acted" in error.value.fix
    with pytest.raises(UserError, match="actors"):
        RobotSource(folder, actors={"person": -1})


def test_a_begun_card_names_the_flag(lerobot, tmp_path, capsys):
    assert cli.main(["data", "card", str(lerobot), "--out", str(tmp_path / "begun.yaml")]) == 0
    assert f"intervention: {KEY}  # found" in (tmp_path / "begun.yaml").read_text()


def test_hdf5_too(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        for number in range(2):
            demo = file.create_group(f"data/demo_{number}")
            demo["actions"], demo["obs/x"] = np.full((6, 1), number / 10), np.zeros((6, 1))
            demo["obs/front_image"] = np.zeros((6, 16, 16, 3), np.uint8)
            demo["interventions"] = np.isin(np.arange(6), BY_PERSON)
    (tmp_path / "card.yaml").write_text(
        "cameras: {front: {key: obs/front_image}}\naction: [{key: actions, names: [x]}]\nstate: [{key: obs/x, names: [x]}]\n"
        "text: push\nintervention: interventions\n"
    )
    command = ["data", "convert", str(tmp_path / "demo.hdf5"), str(tmp_path / "own"), "--card", str(tmp_path / "card.yaml")]
    assert cli.main(command) == 0
    steps, _ = steps_drawn(RobotSource(tmp_path / "own", split="train", holdout=0.5, actors={"policy": 0}))
    assert sorted(steps) == list(BY_PERSON)

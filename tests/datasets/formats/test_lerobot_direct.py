"""Training on a LeRobot data set without conversion: how a user learns of it, and what is said of its images."""

import dataclasses

import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser
from lerobot_files import write_v2

from vla.contract import PolicyContract
from vla.datasets.formats.lerobot_source import LeRobotSource
from vla.datasets.robot import RobotSource
from vla.errors import UserError

CARD = """
cameras: {top: {key: observation.images.top}}
action: [{key: action, names: [x, gripper]}]
instruction: [KEY]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_v2(tmp_path_factory.mktemp("direct") / "arm")


def test_a_lerobot_folder_in_place_of_shards(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a LeRobot data set, not our shards") as error:
        _ = RobotSource(folder).card
    assert f"vla data card {folder} --out card.yaml" in error.value.fix and f"vla data convert {folder}" in error.value.fix
    # The settings that the message shows are those of a source that reads the folder.
    (tmp_path / "card.yaml").write_text(CARD.replace("KEY", "task"))
    lines = error.value.fix.splitlines()
    shown = yaml.safe_load("\n".join(line for line in lines if line.startswith(("data:", "  "))))["data"]["sources"]["robot"]
    parser = ArgumentParser()
    parser.add_argument("--source", type=RobotSource)
    source = parser.instantiate_classes(parser.parse_object({"source": shown})).source
    assert isinstance(source, LeRobotSource) and source.card.spec.action.names == ("x", "gripper")


def test_enlarging_is_said_in_one_line(folder, capsys):
    assert LeRobotSource(folder, height=128, width=128).card.spec.cameras[0].height == 128
    assert "images are enlarged, which adds no detail: top from 64 x 64, wrist from 64 x 64\n" in capsys.readouterr().err
    assert LeRobotSource(folder, height=32, width=32).card.spec.cameras[0].height == 32
    assert "enlarged" not in capsys.readouterr().err


def test_a_wrong_instruction_key_is_told_the_right_one(folder, tmp_path):
    (tmp_path / "card.yaml").write_text(CARD.replace("KEY", "language_instruction"))
    with pytest.raises(UserError, match="there is no language_instruction; there are texts in task"):
        _ = LeRobotSource(folder, str(tmp_path / "card.yaml")).card


def test_videos_of_cameras_that_are_not_used_are_not_opened(tmp_path):
    folder = write_v2(tmp_path / "arm")
    for path in folder.rglob("*wrist*/*.mp4"):
        path.unlink()
    source = LeRobotSource(folder, chunk=1, cameras=["top"])
    assert [camera.name for camera in source.card.spec.cameras] == ["top"] and not source.unreadable
    assert source.sample(0, np.random.default_rng(0)).images.keys() == {"top"}
    with pytest.raises(UserError, match="cameras side") as error:
        _ = LeRobotSource(folder, cameras=["side"]).card
    assert "top, wrist" in error.value.fix


def test_a_policy_of_one_camera_takes_that_of_the_data(folder):
    source = LeRobotSource(folder)
    spec = source.card.spec
    source.bind(PolicyContract({source.card.embodiment: dataclasses.replace(spec, cameras=spec.cameras[1:])}, chunk=1))
    assert source.sample(0, np.random.default_rng(0)).images.keys() == {"wrist"}

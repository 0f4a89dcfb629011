"""HDF5 files that are one episode each, as ALOHA writes them."""

import numpy as np
import pytest
from rlds_files import jpeg
from test_frames import padded
from test_hdf5 import libero

from vla.datasets.formats.conventions.prepare import Changes
from vla.datasets.formats.convert import run
from vla.datasets.formats.inspection.check import verify
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.hdf5 import HDF5Reader
from vla.datasets.robot import RobotSource
from vla.errors import UserError

h5py = pytest.importorskip("h5py")
LENGTHS = {2: 4, 10: 3, 1: 5}
CARD = """
cameras: {high: {key: observations/images/cam_high}}
action: [{key: action, names: [j0, j1, j2, j3, j4, j5, g0, j6, j7, j8, j9, j10, j11, g1], role: joint}]
state: [{key: observations/qpos, pick: [6, 13], names: [g0, g1]}]
text: open the lid
mode: absolute
control_hz: 50
"""


def aloha(folder, compressed=False):
    """As ACT's record_episodes.py writes it."""
    folder.mkdir()
    for number, length in LENGTHS.items():
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"], file.attrs["compress"] = False, compressed
            file["action"] = np.arange(length)[:, None] + np.full((1, 14), number)
            for name in ("qpos", "qvel", "effort"):
                file[f"observations/{name}"] = np.arange(length)[:, None] + np.zeros((1, 14))
            for camera in ("cam_high", "cam_left_wrist"):
                pixels = np.full((length, 12, 16, 3), number * 10, np.uint8)
                name = f"observations/images/{camera}"
                if compressed:
                    file[name] = padded([jpeg(number * 10)] * length)
                else:
                    file.create_dataset(name, data=pixels, chunks=(1, 12, 16, 3))
            if compressed:
                file["compress_len"] = np.zeros((2, length))
    return folder


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("with_card", [False, True])
def test_every_file_is_an_episode(tmp_path, compressed, with_card):
    folder = aloha(tmp_path / "in", compressed)
    (tmp_path / "card.yaml").write_text(CARD)
    reader = HDF5Reader(folder)
    assert [ref.name.rpartition("/")[2] for ref in reader.refs()] == [f"episode_{n}.hdf5" for n in (1, 2, 10)]
    options = ConvertOptions(
        str(folder),
        str(tmp_path / "out"),
        card=str(tmp_path / "card.yaml") if with_card else "",
        changes=Changes(text="open the lid"),
    )
    report = run(make_job(options))
    assert report["records"] == {"found": 3, "written": 3} and report["steps"] == 12
    source = RobotSource(tmp_path / "out", chunk=1)
    sample = source.sample(5, np.random.default_rng(0))
    assert sample.actions[0, 0] == 2 and sample.instruction == "open the lid"
    assert set(sample.images) == ({"high"} if with_card else {"cam_high", "cam_left_wrist"})
    assert len(sample.state) == (2 if with_card else 42)
    assert verify(reader, reader.card()).records == 3
    assert HDF5Reader(folder / "episode_2.hdf5").about()["features"]["action"] == "int64 [4, 14]"


def test_a_damaged_file_is_one_episode(tmp_path):
    folder = aloha(tmp_path / "in")
    data = (folder / "episode_2.hdf5").read_bytes()
    (folder / "episode_2.hdf5").write_bytes(data[: len(data) // 2])
    (tmp_path / "card.yaml").write_text(CARD)
    report = run(make_job(ConvertOptions(str(folder), str(tmp_path / "out"), card=str(tmp_path / "card.yaml"), skip=True)))
    assert report["records"]["written"] == 2 and "episode_2.hdf5" in report["damaged"]["records"][0]


def test_a_card_of_another_layout_is_told_what_the_file_has(tmp_path):
    folder = aloha(tmp_path / "in")
    with pytest.raises(UserError, match="there is no actions, only action, observations/effort, observations/images/cam_high"):
        make_job(ConvertOptions(str(folder), str(tmp_path / "out"), card="libero"))


def test_actions_in_a_group_and_instructions_in_the_file(tmp_path):
    """As DROID's trajectory.h5, with an instruction and images of bytes as RoboTwin's."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["action/cartesian_velocity"], file["action/gripper_position"] = np.ones((4, 6)), np.zeros(4)
        file["observation/robot_state/joints"] = np.zeros((4, 7))
        file["observation/head"] = np.array([jpeg(t) for t in range(4)])
        file.create_dataset("observation/wrist", (4,), h5py.vlen_dtype(np.uint8))
        for t in range(4):
            file["observation/wrist"][t] = np.frombuffer(jpeg(t), np.uint8)
        file["task"], file["language_raw"] = np.arange(4), "close the drawer"
    report = run(make_job(ConvertOptions(str(tmp_path / "a.h5"), str(tmp_path / "out"))))
    assert report["steps"] == 4
    sample = RobotSource(tmp_path / "out", chunk=1).sample(0, np.random.default_rng(0))
    assert sample.instruction == "close the drawer" and set(sample.images) == {"head", "wrist"} and sample.actions.shape == (1, 7)


@pytest.mark.parametrize("card", ["", "libero"])
def test_a_file_of_neither_layout_is_told_what_it_has(tmp_path, card):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["traj_0/actions"], file["traj_1/actions"] = np.zeros((3, 7)), np.zeros((3, 7))
    for skip in (False, True):
        with pytest.raises(UserError, match="neither data/demo_N .* nor action .*: it has traj_0, traj_1") as error:
            make_job(ConvertOptions(str(tmp_path / "a.hdf5"), str(tmp_path / "out"), card=card, skip=skip))
        assert "--on-error" not in str(error.value) and "--card" not in str(error.value)


def test_all_damaged_records_are_counted(tmp_path):
    for name in "ab":
        data = libero(tmp_path / f"{name}.hdf5").read_bytes()
        (tmp_path / f"{name}.hdf5").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="a.hdf5: .*cannot be opened.*; nor can the other 1 records be read"):
        make_job(ConvertOptions(str(tmp_path), str(tmp_path / "out")))

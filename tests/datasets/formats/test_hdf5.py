import fcntl
import json

import numpy as np
import pytest

from vla.datasets.card import DatasetCard
from vla.datasets.formats.convert import run
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.hdf5 import HDF5Reader
from vla.datasets.formats.readers.recognise import recognise
from vla.datasets.index import ShardIndex
from vla.datasets.robot import RobotSource
from vla.errors import UserError

h5py = pytest.importorskip("h5py")
LENGTHS = {"demo_0": 4, "demo_2": 3, "demo_10": 5}


def values(number, length):
    action = np.zeros((length, 7))
    action[:, 0] = np.arange(length) / 10
    action[:, 1] = number / 100
    action[:, 6] = np.where(np.arange(length) % 2, 1, -1)
    frames = np.zeros((length, 12, 16, 3), np.uint8)
    # The first rows of the array are bright.
    frames[:, :6] = (np.arange(length) * 20 + 100)[:, None, None, None]
    return action, frames


def libero(path, lengths=LENGTHS):
    """As LIBERO's create_dataset.py writes it."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_name"] = "Libero_Kitchen"
        data.attrs["problem_info"] = json.dumps({"language_instruction": "open the drawer"})
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        data.attrs["num_demos"], data.attrs["total"] = len(lengths), sum(lengths.values())
        for name, length in lengths.items():
            demo = data.create_group(name)
            demo.attrs["num_samples"] = length
            action, frames = values(int(name[5:]), length)
            demo["actions"], demo["dones"] = action, np.zeros(length, np.uint8)
            demo["obs/agentview_rgb"], demo["obs/eye_in_hand_rgb"] = frames, frames[:, ::-1]
            demo["obs/ee_states"] = np.tile(np.arange(length)[:, None], (1, 6)) / 7
            demo["obs/gripper_states"] = np.zeros((length, 2))
    return path


def robomimic(path, lengths=LENGTHS):
    """As robomimic's dataset_states_to_obs.py writes it."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}})
        data.attrs["total"] = sum(lengths.values())
        for name, length in lengths.items():
            demo = data.create_group(name)
            demo.attrs["num_samples"] = length
            action, frames = values(int(name[5:]), length)
            demo["actions"], demo["states"], demo["rewards"] = action, np.zeros((length, 32)), np.zeros(length)
            for key in ("obs", "next_obs"):
                group = demo.create_group(key)
                group.create_dataset("agentview_image", data=frames, chunks=(1, 12, 16, 3), compression="gzip")
                group["robot0_eye_in_hand_image"] = frames
                group["robot0_eef_pos"], group["robot0_gripper_qpos"] = np.zeros((length, 3)), np.zeros((length, 2))
                group["robot0_eef_quat"] = np.tile([0, 0, np.sin(0.25), np.cos(0.25)], (length, 1))
        file["mask/train"] = np.array([b"demo_0", b"demo_10"])
        file["mask/valid"] = np.array([b"demo_2"])
    return path


def converted(source, out, **changes):
    return run(make_job(ConvertOptions(source=str(source), out=str(out), **changes)))


def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path):
    reader = HDF5Reader(libero(tmp_path / "a.hdf5"))
    assert [ref.location[1] for ref in reader.refs()] == ["demo_0", "demo_2", "demo_10"]
    assert recognise(tmp_path) == "hdf5" == recognise(tmp_path / "a.hdf5")


def test_libero(tmp_path):
    report = converted(libero(tmp_path / "a.hdf5"), tmp_path / "out", card="libero")
    # Images were taken after their actions: of T steps, T - 1 remain.
    assert report["steps"] == 3 + 2 + 4 and report["dropped_steps"] == {"no observation before it": 3}
    source = RobotSource(tmp_path / "out", chunk=1)
    samples = [source.sample(i, np.random.default_rng(0)) for i in range(len(source))]
    assert samples[0].instruction == "open the drawer" and samples[0].actions[0, 0] == pytest.approx(0.1)
    image = samples[0].images["agentview"]
    # OpenGL's rows begin at the bottom: the array's bright top is the bottom of the image.
    assert image.shape == (12, 16, 3) and image[9:].mean() > 80 > image[:3].mean()
    assert samples[0].images["eye_in_hand"][:3].mean() > 80
    card = DatasetCard.load(tmp_path / "out")
    assert card.spec.gripper == "-1 open, +1 closed" and card.spec.action.low == (-1.0,) * 7
    assert card.spec.state.names[:3] == ("x", "y", "z")


def test_robomimic(tmp_path):
    path = robomimic(tmp_path / "image.hdf5")
    report = converted(path, tmp_path / "out", card="robomimic", split="train", changes=changes("lift the cube"))
    assert report["records"] == {"found": 2, "written": 2} and report["steps"] == 9
    source = RobotSource(tmp_path / "out", chunk=1)
    sample = source.sample(0, np.random.default_rng(0))
    assert sample.state[5] == pytest.approx(0.5, abs=1e-5) and sample.images["agentview"][:3].mean() > 80
    assert sample.instruction == "lift the cube"


def changes(text):
    from vla.datasets.formats.conventions.prepare import Changes

    return Changes(text=text)


def test_the_default_card_has_every_camera_and_vector(tmp_path):
    card = HDF5Reader(libero(tmp_path / "a.hdf5")).card()
    assert {k: c.orientation for k, c in card.cameras.items()} == {"agentview": "raw_opengl", "eye_in_hand": "raw_opengl"}
    assert [p.key for p in card.state] == ["obs/ee_states", "obs/gripper_states"] and card.control_hz == 20


def test_files_of_states_alone_are_refused(tmp_path):
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        file["data/demo_1/states"], file["data/demo_1/actions"] = np.zeros((3, 5)), np.zeros((3, 7))
    with pytest.raises(UserError, match="(?s)no images.*--cameras"):
        make_job(ConvertOptions(str(tmp_path / "demo.hdf5"), str(tmp_path / "out")))


def test_a_truncated_file_is_named_and_the_others_are_read(tmp_path):
    libero(tmp_path / "a.hdf5")
    data = libero(tmp_path / "b.hdf5").read_bytes()
    (tmp_path / "b.hdf5").write_bytes(data[: len(data) // 2])
    refs = HDF5Reader(tmp_path).refs()
    assert [bool(ref.damage) for ref in refs] == [False] * 3 + [True] and "b.hdf5" in refs[-1].name
    report = converted(tmp_path, tmp_path / "out", card="libero", skip=True)
    assert report["damaged"]["count"] == 1 and report["records"]["written"] == 3


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_damage_anywhere_raises_user_errors(tmp_path, cut):
    path = robomimic(tmp_path / "a.hdf5")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    middle = int(len(data) * cut)
    data[middle : middle + 2000] = rng.bytes(2000)
    path.write_bytes(data)
    reader = HDF5Reader(path)
    for ref in reader.refs():
        try:
            raw = reader.read(ref)
            list(raw["obs/agentview_image"].rows(range(ref.weight)))
        except (UserError, KeyError):
            pass


def test_lengths_that_differ_are_named(tmp_path):
    path = libero(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/ee_states"]
        file["data/demo_0/obs/ee_states"] = np.zeros((2, 6))
        file["data/demo_2"].attrs["num_samples"] = 9
    report = converted(path, tmp_path / "out", card="libero", skip=True)
    assert report["damaged"]["count"] == 2
    assert "demo_0" in report["damaged"]["records"][0] and "num_samples says 9" in report["damaged"]["records"][1]


def test_headers_that_claim_gigabytes_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        # Nothing of it is stored.
        file.create_dataset("data/demo_0/actions", (10**9, 7), chunks=(1000, 7), dtype="f8")
        # One value in a chunk of 4 GiB.
        file.create_dataset("data/demo_1/actions", (1, 1), maxshape=(None, None), chunks=(2**15, 2**14), dtype="f8")
    reader = HDF5Reader(tmp_path / "a.hdf5")
    for ref, why in zip(reader.refs(), ("claims", "chunks of"), strict=True):
        with pytest.raises(UserError, match=why):
            reader.read(ref)["actions"]


def test_a_missing_demonstration_is_reported(tmp_path):
    with h5py.File(libero(tmp_path / "a.hdf5"), "a") as file:
        del file["data/demo_2"]
    *present, missing = HDF5Reader(tmp_path / "a.hdf5").refs()
    assert len(present) == 2 and "has 2 demonstrations, its num_demos says 3" in missing.damage


def test_links_out_of_the_file_are_refused(tmp_path):
    libero(tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 7))
        file["data/demo_0/secret"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/data/demo_0/actions")
        file["data/demo_1"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/data/demo_0")
        file["data/demo_2/actions"] = np.zeros((3, 7))
        file.create_dataset("data/demo_2/raw", (10,), dtype="u1", external=[("/etc/hostname", 0, 10)])
        file["data/demo_2/chain"] = h5py.SoftLink("/data/demo_0/secret")
    reader = HDF5Reader(tmp_path / "a.hdf5")
    refs = reader.refs()
    with pytest.raises(UserError, match="demo_1 is a link out of the file"):
        reader.read(refs[1])
    for ref, names in ((refs[0], ["secret"]), (refs[2], ["raw", "chain"])):
        raw = reader.read(ref)
        assert raw["actions"].shape == (3, 7)
        for name in names:
            with pytest.raises(UserError, match=f"{name}: it (is a link out|lies outside) of the file"):
                raw[name]


def test_the_shards_are_complete(tmp_path):
    converted(libero(tmp_path / "a.hdf5"), tmp_path / "out", card="libero")
    assert len(ShardIndex(tmp_path / "out")) == 9


def test_a_file_that_another_program_writes_is_no_damage(tmp_path):
    path = libero(tmp_path / "a.hdf5")
    # As HDF5 locks a file that it writes.
    with path.open("rb") as file, pytest.raises(UserError, match="locked") as error:
        fcntl.flock(file, fcntl.LOCK_EX)
        HDF5Reader(path).open(str(path))
    assert "copy" not in str(error.value)


def test_what_an_unreadable_file_lacks_is_not_for_a_card_to_say(tmp_path):
    path = libero(tmp_path / "a.hdf5")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="truncated") as error:
        make_job(ConvertOptions(str(path), str(tmp_path / "out")))
    assert "card" not in str(error.value)

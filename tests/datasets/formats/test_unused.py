"""What a card does not name is neither read nor checked; what it names is."""

import io
import json

import numpy as np
import pytest
import webdataset as wds
from rlds_files import episode, features, group, image, jpeg, png, tensor, text, write
from test_hdf5 import LENGTHS, libero

from vla.datasets.formats.conventions.prepare import Changes, Dropped, prepare
from vla.datasets.formats.conventions.source_card import Part, SourceCard
from vla.datasets.formats.convert import run
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.hdf5 import HDF5Reader
from vla.datasets.formats.readers.recognise import open_reader
from vla.datasets.formats.readers.rlds import RLDSReader
from vla.datasets.formats.readers.rlds_features import Spec, steps_of
from vla.errors import UserError

pytest.importorskip("google_crc32c")
CARD = """
cameras: {front: {key: observation/image}}
action: [{key: action, pick: [0, 1], names: [x, y]}]
state: [{key: observation/state, pick: [0], names: [s]}]
instruction: language_instruction
"""


def sequence(feature, length=-1):
    return {"sequence": {"feature": feature, "length": str(length)}}


# Features that nobody uses: name -> description, and what a record holds under which names.
UNUSED = {
    "pairs": (
        sequence(sequence(tensor("float32"))),
        {
            "ragged_flat_values": np.ones(3, np.float32),
            "ragged_row_lengths_0": np.array([1, 1]),
            "ragged_row_lengths_1": np.array([2, 1]),
        },
    ),
    "structs": (
        sequence(group(a=tensor("float32"), b=text())),
        {"a/ragged_flat_values": np.ones(9, np.float32), "a/ragged_row_lengths_0": np.array([9])},
    ),
    "short": (tensor("float32", 3), {"": np.ones(4, np.float32)}),
    "missing": (tensor("float32", 3), {}),
    "empty": (tensor("string"), {"": []}),
    "depth": (
        {"image": {"shape": {"dimensions": ["16", "16", "1"]}, "dtype": "float32", "encodingFormat": "png"}},
        {"": [b"x"] * 5},
    ),
    "packed": (tensor("float32", 2, encoding="zlib"), {"": [b"no zlib"] * 5}),
    "views": (sequence(image(), 2), {"": [jpeg(0)] * 10}),
    "reward": (tensor("float32", 3), {"": np.zeros(15, np.float32)}),
    "extra": (tensor("float32", 3), {"": np.zeros(15, np.float32)}),
    "terminate": (tensor("float32", 3), {"": np.zeros(15, np.float32)}),
}


def with_unused(unused=UNUSED, number=0, length=5):
    given = episode(number, length)
    for name, (_, values) in unused.items():
        given |= {f"steps/{name}/{end}".rstrip("/"): value for end, value in values.items()}
    return given


def described(**steps):
    return features(
        observation=group(image=image(), state=tensor("float32", 2)),
        action=tensor("float32", 7),
        language_instruction=text(),
        is_first=tensor("bool"),
        is_last=tensor("bool"),
        **steps,
    )


@pytest.mark.parametrize("card", [True, False])
def test_features_that_nobody_uses_are_not_checked(tmp_path, card):
    description = described(**{name: feature for name, (feature, _) in UNUSED.items()})
    write(tmp_path / "in", [with_unused()], description, files=1)
    (tmp_path / "card.yaml").write_text(CARD)
    report = run(
        make_job(ConvertOptions(str(tmp_path / "in"), str(tmp_path / "out"), card=str(tmp_path / "card.yaml") if card else ""))
    )
    assert report["records"] == {"found": 1, "written": 1} and report["steps"] == 5


@pytest.mark.parametrize("name", [name for name in UNUSED if name not in ("reward", "extra", "terminate", "views")])
def test_a_feature_that_is_used_is_checked(tmp_path, name):
    description = described(**{name: feature for name, (feature, _) in UNUSED.items()})
    reader = RLDSReader(write(tmp_path, [with_unused()], description, files=1))
    raw, key = reader.read(reader.refs()[0]), "structs/a" if name == "structs" else name
    with pytest.raises(UserError, match=key):
        raw[key]
    with pytest.raises(UserError, match=f"record 0, (steps/)?{key}"):
        prepare(raw, SourceCard(action=(Part(key, ("a", "b", "c")),)), Changes(text="x"), reader.refs()[0].name)


@pytest.mark.parametrize("with_features", [True, False])
def test_features_of_the_whole_episode_have_any_length(tmp_path, with_features):
    context = group(
        file_path=text(),
        tags=sequence(text()),
        scores=sequence(tensor("float32")),
        id=tensor("int64"),
        task=tensor("string"),
        none=sequence(text()),
    )
    description = features(**described()["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"])
    description["featuresDict"]["features"]["episode_metadata"] = context
    given = episode(0, 5) | {
        "episode_metadata/tags": [b"kitchen", b"left"],
        "episode_metadata/scores": np.arange(7, dtype=np.float32),
        "episode_metadata/id": np.array([4]),
        "episode_metadata/task": [b"wipe"],
        "episode_metadata/none": [],
    }
    write(tmp_path / "in", [given], description if with_features else False, files=1)
    (tmp_path / "card.yaml").write_text(CARD)
    card = "" if with_features else str(tmp_path / "card.yaml")
    assert run(make_job(ConvertOptions(str(tmp_path / "in"), str(tmp_path / "out"), card=card)))["steps"] == 5
    reader = RLDSReader(tmp_path / "in")
    raw = reader.read(reader.refs()[0])
    assert raw["episode_metadata/scores"].ravel().tolist() == list(range(7)) and raw["episode_metadata/id"].ravel().tolist() == [
        4
    ]
    assert raw["episode_metadata/file_path"] == "/data/0.npy" and raw["episode_metadata/none"] == ""
    # One text is the instruction of all steps; which of two would be is not known.
    used = SourceCard(action=(Part("action", tuple("abcdefg")),), instruction=("episode_metadata/task",))
    assert prepare(raw, used, Changes(), "e").instruction == ["wipe"] * 5
    with pytest.raises(UserError, match="2 texts for the whole episode"):
        prepare(raw, SourceCard(action=used.action, instruction=("episode_metadata/tags",)), Changes(), "e")
    with pytest.raises(Dropped, match="no instruction"):
        prepare(raw, SourceCard(action=used.action, instruction=("episode_metadata/none",)), Changes(), "e")


def test_damage_of_one_feature_does_not_change_the_number_of_steps():
    given = episode(0, 5)
    for flag in ("steps/is_first", "steps/is_last"):
        del given[flag]
    given["steps/reward"] = np.zeros(15, np.float32)
    assert steps_of(given, {}) == 5
    specs = {"steps/action": Spec("tensor", (7,)), "steps/observation/state": Spec("tensor", (2,))}
    for name in ("steps/action", "steps/observation/state", "steps/language_instruction", "steps/observation/image"):
        assert steps_of({**episode(0, 5), name: episode(0, 4)[name]}, specs) == 5
    assert steps_of(episode(0, 0), specs) == 0


h5py = pytest.importorskip("h5py")
STRUCT = np.dtype([("a", "f4"), ("b", "i4")])
UNREADABLE = {
    "structs": lambda group, length: group.create_dataset("structs", data=np.zeros(length, STRUCT)),
    "nulls": lambda group, length: group.create_dataset("nulls", data=h5py.Empty("f4")),
    "ragged": lambda group, length: group.create_dataset("ragged", (length,), h5py.vlen_dtype(np.float32)),
    "dangling": lambda group, length: group.__setitem__("dangling", h5py.SoftLink("/nowhere")),
    "link": lambda group, length: group.__setitem__("link", h5py.ExternalLink("other.hdf5", "/data")),
    "type": lambda group, length: group.__setitem__("type", STRUCT),
    "huge": lambda group, length: group.create_dataset("huge", (10**9, 7), "f8", chunks=(1000, 7)),
    "references": lambda group, length: group.create_dataset("references", (length,), h5py.ref_dtype),
    "number": lambda group, length: group.create_dataset("number", data=3.0),
    "extra": lambda group, length: group.create_dataset("extra", data=np.ones((length, 2))),
    "terminate": lambda group, length: group.create_dataset("terminate", data=np.ones((length, 2))),
}


def with_unreadable(path):
    libero(path)
    with h5py.File(path, "a") as file:
        for name, length in LENGTHS.items():
            for where in (file[f"data/{name}"], file[f"data/{name}/obs"]):
                for add in UNREADABLE.values():
                    add(where, length)
    return path


def test_datasets_that_nobody_uses_are_not_checked(tmp_path):
    path = with_unreadable(tmp_path / "a.hdf5")
    expected = run(make_job(ConvertOptions(str(libero(tmp_path / "b.hdf5")), str(tmp_path / "expected"), card="libero")))
    report = run(make_job(ConvertOptions(str(path), str(tmp_path / "out"), card="libero")))
    assert report["records"]["written"] == 3 and report["sha256"] == expected["sha256"]
    assert HDF5Reader(path).about()["features"]["obs/structs"]


@pytest.mark.parametrize("name", [name for name in UNREADABLE if name not in ("extra", "terminate")])
def test_a_dataset_that_is_used_is_checked(tmp_path, name):
    reader = HDF5Reader(with_unreadable(tmp_path / "a.hdf5"))
    ref = reader.refs()[0]
    with pytest.raises(UserError, match=f"demo_0, obs/{name}: "):
        prepare(reader.read(ref), SourceCard(action=(Part(f"obs/{name}", ("a",)),)), Changes(text="x"), ref.name)


def test_unreadable_attributes_are_passed_over(tmp_path):
    path = libero(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        for place in (file["data"], file["data/demo_0"]):
            h5py.h5a.create(place.id, b"when", h5py.h5t.UNIX_D32LE, space)
        file["data/demo_2"].attrs["num_samples"] = "three"
    reader = HDF5Reader(path)
    assert [reader.read(ref)["language_instruction"] for ref in reader.refs()] == ["open the drawer"] * 3
    assert "env_args" in reader.about()["attributes"] and "when" not in reader.about()["attributes"]


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


# Members that nobody uses: in each step, or only in some.
MEMBERS = {
    "objects.npy": lambda t: npy(np.array([{"a": 1}, None])),
    "ragged.npy": lambda t: npy(np.zeros(t + 1, np.float32)),
    "broken.npy": lambda t: b"not an array",
    "some.npy": lambda t: npy(np.zeros(3, np.float32)) if t else None,
    "some.txt": lambda t: b"x" if t == 1 else None,
    "notes.json": lambda t: b"{}" if t else None,
    "points.npz": lambda t: b"anything",
    "extra.npy": lambda t: npy(np.zeros(3, np.float32)),
    "terminate.npy": lambda t: npy(np.zeros(3, np.float32)),
}


def with_members(folder, members=MEMBERS, length=3, episodes=2):
    folder.mkdir(parents=True)
    with wds.TarWriter(str(folder / "a.tar"), encoder=False) as writer:
        for episode in range(episodes):
            for t in range(length):
                info = {
                    "episode": episode,
                    "step": t,
                    "instruction": "go",
                    "nulls": None,
                    "mixed": [None, "a", 3][t],
                    "struct": {"a": t},
                }
                sample = {"cam.jpg": jpeg(t), "action.npy": npy(np.full(2, t, np.float32)), "json": json.dumps(info).encode()}
                sample |= {name: data for name, make in members.items() if (data := make(t)) is not None}
                writer.write({"__key__": f"e{episode}_{t}", **sample})
    return folder


@pytest.mark.parametrize("with_card", [True, False])
def test_members_that_nobody_uses_are_not_checked(tmp_path, with_card):
    folder = with_members(tmp_path / "in")
    (tmp_path / "card.yaml").write_text(
        "cameras: {cam: {key: cam}}\naction: [{key: action, names: [a0, a1]}]\ninstruction: instruction\n"
    )
    reports = []
    for source in (folder, with_members(tmp_path / "plain", {})):
        card = str(tmp_path / "card.yaml") if with_card else ""
        reports.append(run(make_job(ConvertOptions(str(source), f"{source}-out", card=card))))
    assert reports[0]["records"]["written"] == 2 and reports[0]["sha256"] == reports[1]["sha256"]


@pytest.mark.parametrize("name", [name for name in MEMBERS if name.endswith(".npy") and name[:5] not in ("extra", "termi")])
def test_a_member_that_is_used_is_checked(tmp_path, name):
    reader = open_reader(with_members(tmp_path / "in"))
    ref, key = reader.refs()[0], name.removesuffix(".npy")
    with pytest.raises(UserError, match=f"e0_.*{key}"):
        prepare(reader.read(ref), SourceCard(action=(Part(key, ("a",)),)), Changes(text="x"), ref.name)


def test_two_members_of_one_stem_are_two_columns(tmp_path):
    far = {"cam.npy": lambda t: npy(np.zeros((4, 4), np.float32)), "cam.png": lambda t: png(200 + t), "jpg": lambda t: jpeg(90)}
    reader = open_reader(with_members(tmp_path / "in", far))
    card = reader.card()
    assert {name: camera.key for name, camera in card.cameras.items()} == {"cam": "cam", "cam_png": "cam.png", "image": "image"}
    raw = reader.read(reader.refs()[0])
    assert list(raw["cam"].rows([1])) == [jpeg(1)] and list(raw["cam.png"].rows([1])) == [png(201)]
    assert raw["cam.npy"].shape == (3, 4, 4)


def rlds_with_damage(folder):
    write(folder, [episode(0, 4), episode(1, 3)], False, files=1)
    path = next(folder.glob("*.tfrecord*"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def hdf5_with_damage(folder):
    folder.mkdir()
    with h5py.File(libero(folder / "a.hdf5"), "a") as file:
        del file["data/demo_0"]
        file["data/demo_0"] = h5py.ExternalLink("other.hdf5", "/data/demo_0")


def tars_with_damage(folder):
    members = {"state.npy": lambda t: npy(np.zeros(2, np.float32))}
    data = (with_members(folder, members) / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(data.replace(b"\x93NUMPY", b"\x93NUMPX", 2))


@pytest.mark.parametrize(("make", "written"), [(rlds_with_damage, 1), (hdf5_with_damage, 2), (tars_with_damage, 1)])
def test_a_damaged_first_record_does_not_hide_the_others(tmp_path, make, written):
    make(tmp_path / "in")
    reader = open_reader(tmp_path / "in")
    reader.about()
    report = run(make_job(ConvertOptions(str(tmp_path / "in"), str(tmp_path / "out"), skip=True), reader))
    assert report["records"]["written"] == written and report["damaged"]["count"] == 1

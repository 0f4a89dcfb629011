"""Whole data sets with damaged files: whatever is asked of them ends in an answer or an error of ours."""

import contextlib
import io
import json
import resource
import tarfile

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lerobot_files import write_v2, write_v3
from rlds_files import plain
from test_fuzz import changed, json_values
from test_hdf5 import libero, robomimic
from test_tars import image_text, robot_tars
from test_visual_questions import ENTRIES, llava, vqa

from vla.datasets.formats.conventions.prepare import Changes, Dropped, prepare
from vla.datasets.formats.convert import run
from vla.datasets.formats.job import Options, plan
from vla.datasets.formats.readers.recognise import open_reader
from vla.errors import UserError

for module in ("av", "google_crc32c", "h5py", "pyarrow"):
    pytest.importorskip(module)

ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        10**12,
        10**400,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "\0",
        "../../x",
        "x" * 5000,
        [],
        {},
        [[]],
        {"a": 1},
        "{x:9d}",
        "²",
    ]
)
some = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _memory():
    """None takes gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def survives(function, *errors):
    with contextlib.suppress(UserError, *errors):
        return function()


def everything(path, format):
    """All that the commands do with a data set."""
    reader = survives(lambda: open_reader(path, format))
    if reader is None:
        return
    survives(reader.about)
    survives(reader.splits)
    card = survives(reader.card)
    for ref in (survives(reader.refs) or ())[:20]:
        raw = None if ref.damage else survives(lambda ref=ref: reader.read(ref), Dropped)
        if raw is None or card is None:
            continue
        if reader.kind == "robot":
            episode = survives(lambda raw=raw, ref=ref: prepare(raw, card, Changes(text="x"), ref.name), Dropped)
            for frames, rows in (episode.images if episode else {}).values():
                survives(lambda frames=frames, rows=rows: sum(1 for _ in frames.rows(rows.tolist())))
        else:
            for camera in card.cameras.values():
                survives(lambda raw=raw, camera=camera: list(raw[camera.key].rows([0])))


@st.composite
def damaged(draw, value):
    """The value with one of its parts replaced, taken away, or said under another name."""
    value = json.loads(json.dumps(value))
    place, holder, key = value, None, None
    for _ in range(draw(st.integers(0, 8))):
        if not isinstance(place, dict | list) or not place:
            break
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        holder, place = place, place[key]
    if holder is None:
        return draw(ODD | json_values)
    if draw(st.booleans()):
        holder[key] = draw(ODD | json_values)
    else:
        del holder[key]
    return value


class Set:
    """A data set that is damaged and mended again, file by file."""

    def __init__(self, path, format):
        self.path, self.format = path, format
        self.root = path if path.is_dir() else path.parent
        self.whole = {p.relative_to(self.root): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}

    def check(self, name, data):
        (self.root / name).write_bytes(data)
        try:
            everything(self.path, self.format)
        finally:
            (self.root / name).write_bytes(self.whole[name])

    def names(self, *ends):
        return sorted(name for name in self.whole if name.name.endswith(ends))


def shards(folder):
    run(plan(Options(str(robot_tars(folder / "tars")), str(folder / "out"))))
    return folder / "out"


MADE = {
    "rlds": lambda folder: plain(folder),
    "lerobot-2": lambda folder: write_v2(folder / "set"),
    "lerobot-3": lambda folder: write_v3(folder / "set"),
    "shards": shards,
    "webdataset": lambda folder: robot_tars(folder / "tars"),
    "image-text": lambda folder: image_text(folder / "it", [{"jpg": b"x", "json": json.dumps(ENTRIES[0]).encode()}] * 3),
    "llava": lambda folder: llava(folder / "in"),
    "vqav2": lambda folder: vqa(folder / "in"),
    "libero": lambda folder: libero(folder / "a.hdf5", {"demo_0": 3, "demo_1": 2}),
    "robomimic": lambda folder: robomimic(folder / "a.hdf5", {"demo_0": 3, "demo_1": 2}),
}
FORMATS = {"lerobot-2": "lerobot", "lerobot-3": "lerobot", "libero": "hdf5", "robomimic": "hdf5"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Set(MADE[name](tmp_path_factory.mktemp(name)), FORMATS.get(name, name))
        return made[name]

    return get


@pytest.mark.parametrize("name", ["rlds", "lerobot-2", "lerobot-3", "shards", "llava", "vqav2"])
@some
@given(st.data())
def test_descriptions(sets, name, data):
    one = sets(name)
    file = data.draw(st.sampled_from([n for n in one.names(".json", ".jsonl", ".yaml") if n.name != "conversion.json"]))
    text = one.whole[file].decode()
    if file.suffix == ".jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        said = data.draw(damaged(lines))
        body = "".join(json.dumps(entry) + "\n" for entry in said) if isinstance(said, list) else json.dumps(said)
    elif file.suffix == ".yaml":
        body = yaml.safe_dump(data.draw(damaged(yaml.safe_load(text))))
    else:
        body = json.dumps(data.draw(damaged(json.loads(text))))
    one.check(file, body.encode())


def retold(data, change):
    """A tar file whose JSON members are others."""
    file = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=file, mode="w") as new:
        for entry in old:
            body = old.extractfile(entry).read()
            if entry.name.endswith(".json"):
                body = json.dumps(change(json.loads(body))).encode()
                entry.size = len(body)
            new.addfile(entry, io.BytesIO(body))
    return file.getvalue()


@pytest.mark.parametrize("name", ["shards", "webdataset", "image-text"])
@some
@given(st.data())
def test_what_samples_say(sets, name, data):
    one = sets(name)
    file = one.names(".tar")[0]
    said = {}

    def change(info):
        return said.setdefault(json.dumps(info), data.draw(damaged(info)))

    one.check(file, retold(one.whole[file], change))


@pytest.mark.parametrize("name", ["lerobot-2", "lerobot-3", "libero", "robomimic", "shards"])
@some
@given(st.data())
def test_files(sets, name, data):
    one = sets(name)
    file = data.draw(st.sampled_from(one.names(".parquet", ".mp4", ".hdf5", ".tar")))
    one.check(file, data.draw(changed(one.whole[file]) | st.binary(max_size=300)))

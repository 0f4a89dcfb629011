"""Readers of damaged data sets return or raise UserError, whatever is damaged."""

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
from vla.datasets.formats.job import ConvertOptions, make_job
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
    """Checks that a test does not take gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def survives(function, *errors):
    with contextlib.suppress(UserError, *errors):
        return function()


def everything(path, format):
    """Does everything that the commands do with a data set."""
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
    """Generates the value with dataset of its parts replaced or removed."""
    value = json.loads(json.dumps(value))
    node, parent, key = value, None, None
    for _ in range(draw(st.integers(0, 8))):
        if not isinstance(node, dict | list) or not node:
            break
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        parent, node = node, node[key]
    if parent is None:
        return draw(ODD | json_values)
    if draw(st.booleans()):
        parent[key] = draw(ODD | json_values)
    else:
        del parent[key]
    return value


class DataSet:
    """A data set whose files are damaged and restored, dataset at a time."""

    def __init__(self, path, format):
        self.path, self.format = path, format
        self.root = path if path.is_dir() else path.parent
        self.intact = {p.relative_to(self.root): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}

    def check(self, name, data):
        (self.root / name).write_bytes(data)
        try:
            everything(self.path, self.format)
        finally:
            (self.root / name).write_bytes(self.intact[name])

    def names(self, *ends):
        return sorted(name for name in self.intact if name.name.endswith(ends))


def shards(folder):
    run(make_job(ConvertOptions(str(robot_tars(folder / "tars")), str(folder / "out"))))
    return folder / "out"


WRITERS = {
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
    datasets = {}

    def get(name):
        if name not in datasets:
            datasets[name] = DataSet(WRITERS[name](tmp_path_factory.mktemp(name)), FORMATS.get(name, name))
        return datasets[name]

    return get


@pytest.mark.parametrize("name", ["rlds", "lerobot-2", "lerobot-3", "shards", "llava", "vqav2"])
@some
@given(st.data())
def test_descriptions(sets, name, data):
    dataset = sets(name)
    file = data.draw(st.sampled_from([n for n in dataset.names(".json", ".jsonl", ".yaml") if n.name != "conversion.json"]))
    text = dataset.intact[file].decode()
    if file.suffix == ".jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        entries = data.draw(damaged(lines))
        content = "".join(json.dumps(e) + "\n" for e in entries) if isinstance(entries, list) else json.dumps(entries)
    elif file.suffix == ".yaml":
        content = yaml.safe_dump(data.draw(damaged(yaml.safe_load(text))))
    else:
        content = json.dumps(data.draw(damaged(json.loads(text))))
    dataset.check(file, content.encode())


def with_json(data, change):
    """Returns a tar file with its JSON members changed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=file, mode="w") as new:
        for entry in old:
            content = old.extractfile(entry).read()
            if entry.name.endswith(".json"):
                content = json.dumps(change(json.loads(content))).encode()
                entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("name", ["shards", "webdataset", "image-text"])
@some
@given(st.data())
def test_json_of_samples(sets, name, data):
    dataset = sets(name)
    file = dataset.names(".tar")[0]
    changes = {}

    def change(info):
        return changes.setdefault(json.dumps(info), data.draw(damaged(info)))

    dataset.check(file, with_json(dataset.intact[file], change))


@pytest.mark.parametrize("name", ["lerobot-2", "lerobot-3", "libero", "robomimic", "shards"])
@some
@given(st.data())
def test_files(sets, name, data):
    dataset = sets(name)
    file = data.draw(st.sampled_from(dataset.names(".parquet", ".mp4", ".hdf5", ".tar")))
    dataset.check(file, data.draw(changed(dataset.intact[file]) | st.binary(max_size=300)))

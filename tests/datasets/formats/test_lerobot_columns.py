"""Of a LeRobot data set only what the card names is read and checked."""

import shutil

import numpy as np
import pytest
import yaml

pa = pytest.importorskip("pyarrow")
from lerobot_files import FPS, IMAGE, LENGTHS, VIDEO, WRITERS, describe, edit, features, write_v2, write_v3  # noqa: E402

from vla.datasets.formats.convert import run  # noqa: E402
from vla.datasets.formats.inspection.check import verify  # noqa: E402
from vla.datasets.formats.inspection.describe import inspect  # noqa: E402
from vla.datasets.formats.job import ConvertOptions, make_job  # noqa: E402
from vla.datasets.formats.lerobot_source import LeRobotSource  # noqa: E402
from vla.datasets.formats.readers.lerobot import LeRobotReader  # noqa: E402
from vla.errors import UserError  # noqa: E402

UNUSED = {
    "nulls": lambda n: pa.nulls(n),
    "some nulls": lambda n: pa.array([None, *[1.0] * (n - 1)]),
    "structs": lambda n: pa.array([{"x": 1.0, "y": 2.0}] * n),
    "lists of structs": lambda n: pa.array([[{"role": "user", "content": "hello"}]] * n),
    "ragged lists": lambda n: pa.array([[1.0] * t for t in range(n)]),
    "text": lambda n: pa.array(["a"] * n),
    "missing images": lambda n: pa.array([{"bytes": None, "path": "nowhere.png"}] * n),
    "dates": lambda n: pa.array(np.arange(n).astype("datetime64[D]")),
    "decimals": lambda n: pa.array([None] * n, pa.decimal128(5)),
}
CARD = {
    "cameras": {"wrist": {"key": IMAGE}},
    "action": [{"key": "action", "names": ["x", "g"]}],
    "state": [{"key": "observation.state", "names": ["a", "b"]}],
    "text": "go",
    "control_hz": FPS,
}


def add(folder, name, values):
    edit(folder, lambda table, _: table.append_column(name, values(table.num_rows)))
    return folder


def card_file(folder, **changes):
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(CARD | changes))
    return str(path)


def whole(folder, card=""):
    """Checks that verify, convert and the direct source read all episodes."""
    reader = LeRobotReader(folder)
    job = make_job(ConvertOptions(str(folder), str(folder.parent / "out"), card=card), reader)
    findings = verify(reader, job.card)
    assert (findings.records, findings.damaged) == (len(LENGTHS), 0), findings.problems
    assert inspect(reader, job.card)["splits"] == {"train": 2, "val": 1}
    assert run(job)["records"]["written"] == len(LENGTHS)
    source = LeRobotSource(folder, conventions=card, chunk=1)
    assert len(source) == sum(LENGTHS) and source.sample(7, np.random.default_rng(0)).images


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("name", UNUSED)
def test_a_column_that_nobody_uses_does_no_harm(tmp_path, name, version):
    whole(add(WRITERS[version](tmp_path / "a"), "annotation.notes", UNUSED[name]))


def test_a_feature_that_nobody_uses_may_be_odd(tmp_path):
    odd = {name: {"dtype": "language", "shape": shape} for name, shape in (("n", [None]), ("o", "?"), ("p", [-1]), ("q", None))}
    folder = write_v2(tmp_path / "a")
    describe(folder, features={**features(), **odd, "r": "what"})
    whole(folder)
    describe(folder, features=features(action={"dtype": "float32", "shape": [None]}))
    with pytest.raises(UserError, match=r"info.json gives action the shape \[None\]"):
        LeRobotReader(folder).card()


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_videos_that_the_card_does_not_name_may_be_missing(tmp_path, version):
    folder = WRITERS[version](tmp_path / "a")
    shutil.rmtree(folder / "videos")
    describe(folder, video_path=None)
    whole(folder, card_file(tmp_path))
    with pytest.raises(UserError, match="video"):
        make_job(ConvertOptions(str(folder), str(tmp_path / "all")))


def test_the_entries_of_videos_that_the_card_does_not_name_may_be_missing(tmp_path):
    import pyarrow.parquet as pq

    folder = write_v3(tmp_path / "a")
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.select([n for n in table.column_names if not n.startswith("videos/")]), path)
    whole(folder, card_file(tmp_path))


def test_tasks_that_the_card_does_not_name_may_be_missing(tmp_path):
    folder = write_v2(tmp_path / "a")
    (folder / "meta/tasks.jsonl").unlink()
    edit(folder, lambda table, _: table.drop_columns(["task_index", "index", "timestamp"]))
    whole(folder, card_file(tmp_path))
    told = add(folder, "language", lambda n: pa.array(["lift it"] * n))
    reader = LeRobotReader(told)
    card = make_job(ConvertOptions(str(told), str(tmp_path / "b"), card=card_file(tmp_path, instruction=["language"]))).card
    assert verify(reader, card).damaged == 0


@pytest.mark.parametrize("missing", ["episode_index", "frame_index", "index", "timestamp", "task_index", "next.done"])
def test_columns_of_lerobots_own_may_be_missing(tmp_path, missing):
    folder = write_v2(tmp_path / "a")
    add(folder, "next.done", lambda n: pa.array([False] * (n - 1) + [True]))
    edit(folder, lambda table, _: table.drop_columns([missing]))
    whole(folder)


def test_an_empty_column_of_ends_is_no_column(tmp_path):
    folder = add(write_v2(tmp_path / "a"), "next.done", lambda n: pa.nulls(n, pa.bool_()))
    whole(folder)


def test_a_column_that_the_card_names_wrongly_is_named_rightly(tmp_path):
    folder = add(write_v2(tmp_path / "a"), "pose", UNUSED["structs"])
    add(folder, "chat", UNUSED["lists of structs"])
    reader = LeRobotReader(folder)
    for changes, why in (
        ({"cameras": {"c": {"key": "pose"}}}, "pose: it holds x, y for each step, which is no image"),
        ({"action": [{"key": "chat", "names": ["a"]}]}, "numbers for each step"),
        ({"cameras": {"c": {"key": "action"}}}, "action holds no images"),
        ({"cameras": {"c": {"key": VIDEO + "2"}}}, f"there is no {VIDEO}2, only"),
    ):
        with pytest.raises(UserError) as caught:
            make_job(ConvertOptions(str(folder), str(tmp_path / "b"), card=card_file(tmp_path, **changes)), reader)
        assert why in str(caught.value)


def test_kinds_of_columns(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 3)).astype(np.uint8).tolist()
    folder = add(write_v2(tmp_path / "a"), "pixels", lambda n: pa.array([pixels] * n, pa.list_(pa.list_(pa.list_(pa.uint8())))))
    add(folder, "encoded", lambda n: pa.array([b"x"] * n))
    add(folder, "vector", lambda n: pa.array([[1, 2]] * n, pa.list_(pa.int16())))
    reader = LeRobotReader(folder)
    ref = reader.refs()[1]
    raw = reader.read(ref)
    assert raw["pixels"].dtype == np.uint8 and raw["pixels"].shape == (LENGTHS[1], 2, 3, 3)
    assert raw["encoded"] == [b"x"] * LENGTHS[1] and raw["vector"].dtype == np.int16
    assert np.array_equal(reader.cell(ref, "action", 2)[0], raw["action"][2])
    with pytest.raises(KeyError):
        raw["nothing"]
    assert raw.get("nothing", 3) == 3

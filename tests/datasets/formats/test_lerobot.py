import json
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402
from lerobot_files import FPS, IMAGE, LENGTHS, VIDEO, WRITERS, action, level, write_v2, write_v3  # noqa: E402

from vla.datasets.card import DatasetCard  # noqa: E402
from vla.datasets.formats import convert  # noqa: E402
from vla.datasets.formats import job as planning  # noqa: E402
from vla.datasets.formats.convert import run  # noqa: E402
from vla.datasets.formats.images import decode  # noqa: E402
from vla.datasets.formats.inspection.check import verify  # noqa: E402
from vla.datasets.formats.job import ConvertOptions, make_job  # noqa: E402
from vla.datasets.formats.lerobot_source import LeRobotSource  # noqa: E402
from vla.datasets.formats.readers.lerobot import LeRobotReader  # noqa: E402
from vla.datasets.formats.readers.recognise import recognise  # noqa: E402
from vla.datasets.formats.video import VideoWriter  # noqa: E402
from vla.datasets.formats.writers import lerobot as lerobot_writer  # noqa: E402
from vla.datasets.formats.writers.shards import sha256  # noqa: E402
from vla.datasets.index import ShardIndex  # noqa: E402
from vla.datasets.mixture import Mixture  # noqa: E402
from vla.datasets.robot import RobotSource  # noqa: E402
from vla.datasets.shards import ShardWriter, encode_jpeg  # noqa: E402
from vla.errors import UserError  # noqa: E402


@pytest.fixture(scope="module", params=WRITERS)
def source(request, tmp_path_factory):
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param) / "set")


def levels(frames, rows):
    """Returns the brightness of the right half of each frame."""
    return [float(np.mean(pixels[:, 32:])) for pixels in frames.rows(rows)]


def test_episodes_come_back_as_written(source):
    reader = LeRobotReader(source)
    assert recognise(source) == "lerobot"
    for episode, (ref, length) in enumerate(zip(reader.refs(), LENGTHS, strict=True)):
        raw = reader.read(ref)
        assert np.array_equal(raw["action"], action(episode, length)) and raw["observation.state"].shape == (length, 2)
        assert raw["task"] == [("pick it", "place it")[episode % 2]] * length
        expected = [level(episode, t) for t in range(length)]
        assert np.allclose(levels(raw[VIDEO], range(length)), expected, atol=4)
        assert np.allclose(levels(raw[VIDEO], [1, 3]), [expected[1], expected[3]], atol=4)
        assert len(list(raw[IMAGE].rows(range(length)))) == length


def test_conversion(source, tmp_path):
    report = run(make_job(ConvertOptions(str(source), str(tmp_path / "out"))))
    assert report["records"]["written"] == 3 and report["steps"] == 15
    shards = RobotSource(tmp_path / "out", chunk=1)
    assert list(shards.card.spec.action.names) == ["x", "gripper"] and shards.card.spec.state.names == ("a", "b")
    assert shards.card.spec.control_hz == FPS and shards.card.embodiment == "so100"
    sample = shards.sample(8, np.random.default_rng(0))
    assert sample.instruction == "place it" and sample.images["top"][:, 32:].mean() == pytest.approx(level(1, 2), abs=4)
    assert sample.images["wrist"][:, 32:].mean() == pytest.approx(255 - level(1, 2), abs=2)


def test_as_a_source_without_conversion(source, tmp_path):
    run(make_job(ConvertOptions(str(source), str(tmp_path / "out"))))
    shards, direct = RobotSource(tmp_path / "out", chunk=3), LeRobotSource(source, chunk=3)
    assert len(direct) == len(shards) == 15 and direct.card.spec.cameras == shards.card.spec.cameras
    for name in ("low", "high", "names", "constant"):
        assert getattr(direct.card.spec.action, name) == getattr(shards.card.spec.action, name)
    for i in (3, 14, 0, 9):
        one, other = (s.sample(i, np.random.default_rng(0)) for s in (direct, shards))
        assert np.array_equal(one.actions, other.actions) and np.array_equal(one.mask, other.mask)
        assert one.instruction == other.instruction and (one.episode, one.step) == (other.episode, other.step)
        for name, image in one.images.items():
            assert np.abs(image.astype(int) - other.images[name]).mean() < 3
    again = pickle.loads(pickle.dumps(direct))
    assert np.array_equal(
        again.sample(4, np.random.default_rng(0)).images["top"], direct.sample(4, np.random.default_rng(0)).images["top"]
    )
    assert again.settings() == LeRobotSource(source, chunk=3).settings()
    assert {s.episode for s in (direct.restricted("val").sample(i, np.random.default_rng(0)) for i in range(5))} == {2}


def test_in_a_mixture(source):
    mixture = Mixture({"a": LeRobotSource(source, chunk=1)}, seed=0)
    assert mixture.sources["a"].order((0, 1)).at(3)[1] in range(15)


def test_a_configuration_may_name_it(source):
    from jsonargparse import ArgumentParser

    from vla.datasets.sources import Source

    parser = ArgumentParser()
    parser.add_argument("--mine", type=Source)
    source_settings = {"class_path": "vla.datasets.formats.lerobot_source.LeRobotSource"}
    source_settings["init_args"] = {"folder": str(source), "height": 32, "width": 32, "weight": 2.0, "chunk": 1}
    instance = parser.instantiate_classes(parser.parse_object({"mine": source_settings})).mine
    assert instance.weight == 2 and instance.sample(0, np.random.default_rng(0)).images["top"].shape == (32, 32, 3)


# Conversion to LeRobot and back.


def ours(folder):
    """Writes shards of ours with every value that a step can have."""
    from vla.contract import Camera, Embodiment
    from vla.space import Space

    rng = np.random.default_rng(0)
    space = Space(("dx", "gripper"), ("m", ""), (-0.5, -1.0), (0.5, 1.0))
    state = Space(("x",), ("m",), (0.0,), (1.0,))
    with ShardWriter(folder, 7) as writer:
        for episode, length in enumerate((5, 4, 3)):
            for step in range(length):
                info = {"episode": episode, "step": step, "length": length, "instruction": f"lift {episode}", "embodiment": "arm"}
                info |= {
                    "terminate": int(step == length - 1),
                    "target": "cube",
                    "segment": step // 3,
                    "point": [0.25, step / 10],
                    "reach": [1, 2, 3, step],
                }
                members = {"front.jpg": encode_jpeg(rng.integers(0, 255, (64, 64, 3), np.uint8)), "json": info}
                members |= {
                    "action.npy": rng.uniform(-0.4, 0.4, 2).astype(np.float32),
                    "state.npy": rng.uniform(0, 1, 1).astype(np.float32),
                }
                writer.write(f"e{episode:06d}_s{step:04d}", members)
    spec = Embodiment((Camera("front", 64, 64),), state, space, rotation="none", gripper="-1 open, +1 closed", control_hz=12.5)
    DatasetCard("mine", "robot", "arm", spec, conventions={"pictures": "upright RGB"}).save(folder)
    return folder


@pytest.mark.parametrize("video", ["none", "h264", "av1"])
def test_shards_to_lerobot_and_back(tmp_path, monkeypatch, video):
    monkeypatch.setattr(planning, "PART_STEPS", 9)
    shards = ours(tmp_path / "ours")
    run(make_job(ConvertOptions(str(shards), str(tmp_path / "lerobot"), to="lerobot", video=video)))
    run(make_job(ConvertOptions(str(tmp_path / "lerobot"), str(tmp_path / "back"))))
    one, other = ShardIndex(shards), ShardIndex(tmp_path / "back")
    assert one.keys == other.keys
    for i in range(len(one)):
        before, after = one.read(i), other.read(i)
        if video == "none":
            assert before == after
        else:
            del before["front.jpg"], after["front.jpg"]
            assert before == after
    old, new = DatasetCard.load(shards), DatasetCard.load(tmp_path / "back")
    for name in ("cameras", "frame", "mode", "rotation", "gripper", "control_hz"):
        assert getattr(old.spec, name) == getattr(new.spec, name)
    for name in ("names", "units", "low", "high"):
        assert getattr(old.spec.action, name) == getattr(new.spec.action, name)
    assert new.conventions.items() >= old.conventions.items()


def test_the_result_has_lerobots_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "PART_STEPS", 9)
    job = make_job(ConvertOptions(str(ours(tmp_path / "ours")), str(tmp_path / "out"), to="lerobot", video="h264"))
    assert len(job.parts) == 2
    run(job)
    out = tmp_path / "out"
    info = json.loads((out / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["total_frames"] == 12 and info["splits"] == {"train": "0:3"}
    assert info["features"]["observation.images.front"]["shape"] == [64, 64, 3]
    rows = [row for p in sorted((out / "data/chunk-000").iterdir()) for row in pq.read_table(p).to_pylist()]
    assert [r["index"] for r in rows] == list(range(12)) and [r["episode_index"] for r in rows] == [0] * 5 + [1] * 4 + [2] * 3
    assert [r["timestamp"] for r in rows[5:9]] == pytest.approx([0, 0.08, 0.16, 0.24])
    tasks = pq.read_table(out / "meta/tasks.parquet")
    assert tasks["__index_level_0__"].to_pylist() == ["lift 0", "lift 1", "lift 2"] and [r["task_index"] for r in rows[::5]] == [
        0,
        1,
        2,
    ]
    episodes = [e for p in sorted((out / "meta/episodes/chunk-000").iterdir()) for e in pq.read_table(p).to_pylist()]
    assert [(e["dataset_from_index"], e["dataset_to_index"]) for e in episodes] == [(0, 5), (5, 9), (9, 12)]
    assert episodes[1]["videos/observation.images.front/from_timestamp"] == pytest.approx(0.4)
    assert episodes[2]["videos/observation.images.front/file_index"] == 1
    stats = json.loads((out / "meta/stats.json").read_text())
    assert stats["action"]["count"] == [12] and np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)
    assert stats["action"]["mean"] == pytest.approx(np.mean([r["action"] for r in rows], 0))
    assert not list(out.rglob("*tmp*")) and not (out / ".parts").exists()


def test_a_killed_conversion_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "PART_STEPS", 6)
    shards = ours(tmp_path / "ours")

    def job(name):
        return make_job(ConvertOptions(str(shards), str(tmp_path / name), to="lerobot", video="h264"))

    def killed_in(module, name, part):
        function = getattr(module, name)
        setattr(module, name, lambda *args: os.kill(os.getpid(), signal.SIGKILL) if args[1] == part else function(*args))
        run(job("killed"))

    # While it writes parts, and while it puts them together.
    for arguments in ((convert, "_write_part", 1), (lerobot_writer, "_episodes", 1)):
        process = multiprocessing.get_context("fork").Process(target=killed_in, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL and not (tmp_path / "killed/conversion.json").exists()
    run(job("killed"))
    digests = run(job("whole"))["sha256"]
    assert run(job("killed"))["sha256"] == digests and any(name.endswith(".mp4") for name in digests)
    files = {p.relative_to(tmp_path / "killed").as_posix(): sha256(p) for p in (tmp_path / "killed").rglob("*") if p.is_file()}
    del files["conversion.json"]
    assert files == digests


@pytest.mark.parametrize("video", ["none", "h264"])
def test_the_expected_size_is_close(tmp_path, video):
    job = make_job(ConvertOptions(str(ours(tmp_path / "ours")), str(tmp_path / "out"), to="lerobot", video=video))
    run(job)
    size = sum(p.stat().st_size for top in ("data", "videos") for p in (tmp_path / "out" / top).rglob("*.*"))
    assert 0.3 < job.expected / size < 3


def test_the_encoder_is_silent_and_takes_no_priority(tmp_path, capfd):
    """Run as root, SVT-AV1 takes real-time priority for itself and for the calling thread."""
    with VideoWriter(tmp_path / "a.mp4", 10, "av1") as video:
        for _ in range(3):
            video.write(np.zeros((64, 64, 3), np.uint8))
        if hasattr(os, "sched_getscheduler"):
            threads = [os.sched_getscheduler(int(name)) for name in os.listdir("/proc/self/task")]
            assert os.SCHED_FIFO not in threads and os.SCHED_RR not in threads
    assert capfd.readouterr().err == ""


def test_verify_detects_a_changed_byte(tmp_path):
    run(make_job(ConvertOptions(str(ours(tmp_path / "ours")), str(tmp_path / "out"), to="lerobot", video="none")))
    reader = LeRobotReader(tmp_path / "out")
    assert verify(reader, reader.card()).damaged == 0
    path = tmp_path / "out/data/chunk-000/file-000.parquet"
    data = bytearray(path.read_bytes())
    # The byte lies within an image, which can still be decoded.
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "checksum" in verify(LeRobotReader(tmp_path / "out"), reader.card()).problems[0]


def test_a_data_set_written_by_lerobot():
    """lerobot/ was written by LeRobot 0.4.4: three episodes of 12 steps, a video (AV1) and a camera of images."""
    reader = LeRobotReader(Path(__file__).parent / "lerobot")
    card, refs = reader.card(), reader.refs()
    assert reader.version == "v3.0" and [ref.weight for ref in refs] == [12] * 3 and set(card.cameras) == {"a", "b"}
    assert [p.names for p in (*card.action, *card.state)] == [("x", "grip"), ("s", "u")]
    for number, ref in enumerate(refs):
        raw = reader.read(ref)
        assert raw["action"].tolist() == [[t, number] for t in range(12)] and raw["task"] == [f"do {number % 2}"] * 12
        for name, sign in (("a", 1), ("b", -1)):
            frames = [
                frame if isinstance(frame, np.ndarray) else decode(frame, "")
                for frame in raw[f"observation.images.{name}"].rows(range(12))
            ]
            expected = [(40 + number * 50 + t * 4) * sign + (255 if sign < 0 else 0) for t in range(12)]
            assert np.allclose([pixels.mean() for pixels in frames], expected, atol=3)


def test_videos_need_even_sides(tmp_path):
    shards = ours(tmp_path / "ours")
    with pytest.raises(UserError, match="even sides"):
        run(make_job(ConvertOptions(str(shards), str(tmp_path / "out"), to="lerobot", height=33, width=33, video="h264")))


# Errors.


def refused(folder, why):
    reader = LeRobotReader(folder)
    with pytest.raises(UserError, match=why) as caught:
        for ref in reader.refs():
            if ref.damage:
                raise UserError(ref.damage, ref.name)
            raw = reader.read(ref)
            for key in ("action", "task"):
                assert len(raw[key]) == ref.weight
            for key in (VIDEO, IMAGE):
                list(raw[key].rows(range(ref.weight)))
    return str(caught.value)


def test_damage_is_named(tmp_path):
    folder = write_v2(tmp_path / "a")
    path = folder / f"videos/chunk-000/{VIDEO}/episode_000001.mp4"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    assert "episode_000001.mp4" in refused(folder, "cannot be read|ends before frame|missing")
    path.unlink()
    assert "episode 1" in refused(folder, "episode_000001.mp4 is missing")
    path.write_bytes(content)
    data = folder / "data/chunk-000/episode_000002.parquet"
    data.write_bytes(data.read_bytes()[:-200])
    assert "episode 2" in refused(folder, "cannot be read")


def test_lengths_and_indices_that_do_not_fit_are_named(tmp_path):
    folder = write_v2(tmp_path / "a")
    meta = folder / "meta/episodes.jsonl"
    meta.write_text(meta.read_text().replace('"length": 6', '"length": 7'))
    assert "episode 0" in refused(folder, "the episode has 6 rows, not the frames 0 to 6")
    meta.write_text("".join(meta.read_text().replace('"length": 7', '"length": 6').splitlines(keepends=True)[:2]))
    assert "episode 2" in refused(folder, "the list of episodes lacks it")
    (folder / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "pick it"}\n')
    assert "episode 1" in refused(folder, "task_index is 1, but there are 1 tasks")


def test_a_video_that_is_too_short_is_named(tmp_path):
    folder = write_v3(tmp_path / "a")
    meta = folder / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(meta).to_pylist()
    rows[2][f"videos/{VIDEO}/from_timestamp"] += 0.3
    pq.write_table(pa.Table.from_pylist(rows), meta)
    assert "episode 2" in refused(folder, "ends before frame 2 of 5")


def test_links_of_hugging_faces_cache_are_followed_and_others_are_not(tmp_path):
    cache = tmp_path / "datasets--me--x"
    folder = write_v2(cache / "snapshots/abc")
    path = folder / "data/chunk-000/episode_000000.parquet"
    (cache / "blobs").mkdir()
    path.rename(cache / "blobs/123")
    path.symlink_to("../../../../blobs/123")
    reader = LeRobotReader(folder)
    assert len(reader.read(reader.refs()[0])["action"]) == LENGTHS[0]
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="leaves the data set's folder"):
        reader.refs()


def test_claims_of_billions_are_harmless(tmp_path):
    folder = write_v2(tmp_path / "a")
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 10**12, "splits": {"train": f"0:{10**8}"}}))
    reader = LeRobotReader(folder)
    refs = reader.refs()
    assert len(refs) < 2000 and "lacks 999999998997 more" in refs[-1].damage and len(reader.splits()["train"]) == 1000 + 3
    info["features"]["action"]["shape"] = [10**8]
    (folder / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="100000000 values"):
        LeRobotReader(folder).card()


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("data_path", "../../{episode_index}.parquet", "leaves the data set's folder"),
        ("data_path", "{episode_index:09999999999d}", "malformed field"),
        ("data_path", "{episode_index.__class__}", "malformed field"),
        ("codebase_version", "v1.6", "v2.0, v2.1 and v3.0"),
        ("fps", 0, "0.0 frames per second"),
        ("features", None, "not LeRobot's"),
    ],
)
def test_descriptions_are_not_trusted(tmp_path, key, value, why):
    folder = write_v2(tmp_path / "a")
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps({**info, key: value}))
    with pytest.raises(UserError) as caught:
        LeRobotReader(folder).refs()
    assert why in str(caught.value)


def test_openpis_names_of_features_need_no_card(tmp_path):
    folder = write_v2(tmp_path / "in")
    old = {"action": "actions", "observation.state": "state", VIDEO: "image", IMAGE: "wrist_image"}
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"] = {old.get(name, name): feature for name, feature in info["features"].items()}
    (folder / "meta/info.json").write_text(json.dumps(info))
    card = LeRobotReader(folder).card()
    assert [part.key for part in (*card.action, *card.state)] == ["actions", "state"]
    assert list(card.cameras) == ["image", "wrist_image"] and card.action[0].names == ("x", "gripper")

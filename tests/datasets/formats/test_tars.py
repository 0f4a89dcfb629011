import io
import json
import re
import tarfile

import numpy as np
import pytest
import webdataset as wds
from rlds_files import jpeg

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.formats.convert import run
from vla.datasets.formats.inspection.check import verify
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.recognise import open_reader, recognise
from vla.datasets.formats.readers.tars import TarReader
from vla.datasets.index import ShardIndex
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.datasets.stream import QuestionStream
from vla.errors import UserError
from vla.space import Space


def npy(values):
    file = io.BytesIO()
    np.save(file, np.asarray(values, np.float32))
    return file.getvalue()


def robot_tars(folder, with_json=True, lengths=(3, 4, 2)):
    """Writes robot steps with webdataset's own writer; episodes spread over files, in any order."""
    folder.mkdir()
    samples = []
    for episode, length in enumerate(lengths):
        for step in range(length):
            sample = {
                "__key__": f"traj{episode}_{step:03d}",
                "cam.jpg": jpeg(episode * 50 + step),
                "action.npy": npy([step, episode]),
            }
            sample["state.npy"] = npy([episode])
            if with_json:
                sample["json"] = json.dumps({"episode": f"run-{episode}", "step": step, "instruction": f"do {episode}"}).encode()
            else:
                sample["txt"] = f"do {episode}".encode()
            samples.append(sample)
    order = np.random.default_rng(0).permutation(len(samples))
    for k in range(2):
        with wds.TarWriter(str(folder / f"part-{k}.tar"), encoder=False) as writer:
            for i in order[k::2]:
                writer.write(samples[i])
    return folder


@pytest.mark.parametrize("with_json", [True, False])
def test_robot_steps(tmp_path, with_json):
    folder = robot_tars(tmp_path / "tars", with_json)
    assert recognise(folder) == "webdataset"
    reader = TarReader(folder)
    refs = reader.refs()
    assert [ref.weight for ref in refs] == [3, 4, 2] and not any(ref.damage for ref in refs)
    run(make_job(ConvertOptions(str(folder), str(tmp_path / "out"))))
    source = RobotSource(tmp_path / "out", chunk=2)
    sample = source.sample(4, np.random.default_rng(0))
    assert sample.actions.tolist() == [[1, 1], [2, 1]] and sample.state.tolist() == [1] and sample.instruction == "do 1"
    assert sample.images["cam"].shape == (16, 16, 3)


def test_samples_after_a_cut_are_lost_and_reported(tmp_path):
    folder = robot_tars(tmp_path / "tars")
    path = folder / "part-1.tar"
    path.write_bytes(path.read_bytes()[:9000])
    refs = TarReader(folder).refs()
    assert any("part-1.tar" in ref.name and "the samples after it cannot be read" in ref.damage for ref in refs)
    assert sum(ref.weight for ref in refs) < 9
    (tmp_path / "no.tar").write_bytes(b"no tar at all" * 100)
    (ref,) = TarReader(tmp_path / "no.tar").refs()
    assert "not a tar file" in ref.damage


def test_our_shards_with_another_size(tmp_path):
    run(make_job(ConvertOptions(str(robot_tars(tmp_path / "tars")), str(tmp_path / "out"))))
    assert recognise(tmp_path / "out") == "shards"
    run(make_job(ConvertOptions(str(tmp_path / "out"), str(tmp_path / "small"), height=8, width=8)))
    assert DatasetCard.load(tmp_path / "small").spec.cameras == (Camera("cam", 8, 8),)
    one, other = ShardIndex(tmp_path / "out"), ShardIndex(tmp_path / "small")
    assert one.keys == other.keys and one.read(3, ("json",)) == other.read(3, ("json",))


def test_a_camera_may_have_capital_letters(tmp_path):
    card = "cameras: {Front: {key: cam}}\naction: [{key: action, names: [a, b]}]\ntext: go\n"
    (tmp_path / "card.yaml").write_text(card)
    run(make_job(ConvertOptions(str(robot_tars(tmp_path / "tars")), str(tmp_path / "out"), card=str(tmp_path / "card.yaml"))))
    reader = open_reader(tmp_path / "out")
    assert verify(reader, reader.card()).images == 9
    run(make_job(ConvertOptions(str(tmp_path / "out"), str(tmp_path / "small"), height=8, width=8)))
    assert RobotSource(tmp_path / "small", chunk=1).sample(0, np.random.default_rng(0)).images["Front"].shape == (8, 8, 3)


def test_a_missing_shard_is_reported(tmp_path):
    run(make_job(ConvertOptions(str(robot_tars(tmp_path / "tars")), str(tmp_path / "out"))))
    path = next((tmp_path / "out").glob("*.tar"))
    path.rename(tmp_path / "out/shard-000009.tar")
    *present, missing = open_reader(tmp_path / "out").refs()
    assert len(present) == 3 and missing.damage == "the shard is missing" and path.name in missing.name


def test_our_questions(tmp_path):
    from vla.datasets.shards import ShardWriter

    info = {"questions": [{"type": "where", "question": "where", "answer": [[0.5, 0.25]]}]}
    with ShardWriter(tmp_path / "q") as writer:
        for i in range(3):
            writer.write(f"q{i}", {"front.jpg": jpeg(i), "json": info})
    no_space = Space((), (), (), ())
    DatasetCard("q", "questions", "arm", Embodiment((Camera("front", 16, 16),), no_space, no_space)).save(tmp_path / "q")
    run(make_job(ConvertOptions(str(tmp_path / "q"), str(tmp_path / "out"), camera="front")))
    assert QuestionSource(tmp_path / "out").questions(2) == info["questions"]


# Images with texts.


def image_text(folder, samples):
    folder.mkdir()
    with wds.TarWriter(str(folder / "00000.tar"), encoder=False) as writer:
        for i, sample in enumerate(samples):
            writer.write({"__key__": f"{i:09d}", **sample})
    return folder


def test_captions_and_questions(tmp_path):
    talk = {"conversations": [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a cat"}]}
    samples = [
        {"jpg": jpeg(1), "txt": b"a dog\non a sofa"},
        {"png": jpeg(2), "json": json.dumps(talk).encode()},
        {"jpg": jpeg(3), "json": json.dumps({"caption": "a bird", "url": "x"}).encode(), "txt": b"a bird"},
        {"jpg": jpeg(4), "json": json.dumps({"question": "how many?", "answer": "two"}).encode()},
        {"jpg": jpeg(5)},
        {"txt": b"alone"},
    ]
    folder = image_text(tmp_path / "it", samples)
    assert recognise(folder) == "image-text"
    report = run(make_job(ConvertOptions(str(folder), str(tmp_path / "out"), skip=True)))
    assert report["records"] == {"found": 6, "written": 4} and report["questions"] == {
        "caption": 2,
        "conversation": 1,
        "question": 1,
    }
    assert "neither a caption nor questions" in report["damaged"]["records"][0] and "no image" in report["damaged"]["records"][1]
    source = QuestionSource(tmp_path / "out")
    assert source.questions(0) == [{"type": "caption", "question": "describe the picture", "answer": "a dog on a sofa"}]
    assert source.questions(1)[0]["question"] == "what is it?" and source.sample(3, np.random.default_rng(0)).questions[
        0
    ].answer == ["two"]


def test_different_sizes_need_an_option(tmp_path):
    folder = image_text(tmp_path / "it", [{"jpg": jpeg(1, size), "txt": b"x"} for size in (16, 24)])
    with pytest.raises(UserError, match="24 x 24, others 16 x 16"):
        run(make_job(ConvertOptions(str(folder), str(tmp_path / "out"))))
    run(make_job(ConvertOptions(str(folder), str(tmp_path / "sized"), height=20, width=20)))
    assert QuestionSource(tmp_path / "sized").images(1)["image"].shape == (20, 20, 3)


def tar(path, *members):
    """A tar file of these members (name, content), in this order."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("again", ["1.jpg", "1.JPG"])
def test_a_member_that_occurs_twice_is_refused(tmp_path, again):
    """It is not known which of two images belongs to the caption. webdataset refuses them too."""
    members = [("0.jpg", jpeg(0)), ("0.txt", b"a cat"), ("1.jpg", jpeg(1)), (again, jpeg(99)), ("1.txt", b"a dog")]
    path = tar(tmp_path / "it/0.tar", *members)
    with pytest.raises(ValueError, match="duplicate file name"):
        list(wds.WebDataset(str(path), shardshuffle=False))
    with pytest.raises(UserError, match=f"the member {again} occurs twice"):
        make_job(ConvertOptions(str(path.parent), str(tmp_path / "out")))
    report = run(make_job(ConvertOptions(str(path.parent), str(tmp_path / "out"), skip=True)))
    assert report["records"]["written"] == 1 and report["damaged"]["records"] == [f"{path}, 1: the member {again} occurs twice"]


def test_a_member_of_a_step_that_occurs_twice_is_refused(tmp_path):
    steps = [(f"run{e}_{t}.{name}", data) for e in (0, 1) for t in (0, 1) for name, data in (("jpg", jpeg(t)), ("npy", npy([t])))]
    reader = open_reader(tar(tmp_path / "robot.tar", *steps[:7], ("run1_1.jpg", jpeg(99)), steps[7]))
    assert [ref.damage for ref in reader.refs()] == ["", "the member run1_1.jpg occurs twice"]


# macOS's tar writes a file's attributes as ._NAME before it.


def with_companions(members):
    for name, content in members:
        folder, slash, file = name.rpartition("/")
        yield f"{folder}{slash}._{file}", b"\0\5\x16\7" + bytes(159)
        yield name, content


@pytest.mark.parametrize("folder", ["", "a.b/"])
def test_files_that_are_no_members_are_passed_over(tmp_path, folder):
    members = [(f"{folder}{i}.{name}", data) for i in range(3) for name, data in (("jpg", jpeg(i)), ("txt", b"picture %d" % i))]
    others = [(f"{folder}.DS_Store", b"x"), (f"{folder}README", b"y")]
    path = tar(tmp_path / "it/0.tar", *with_companions([*others, *members]))
    # Copied to a disk without attributes, the file itself has such a companion.
    path.with_name("._0.tar").write_bytes(b"\0\5\x16\7" + bytes(159))
    assert recognise(path) == recognise(path.parent) == "image-text"
    report = run(make_job(ConvertOptions(str(path.parent), str(tmp_path / "out"))))
    assert report["records"] == {"found": 3, "written": 3} and not report["damaged"]["count"]
    assert [QuestionSource(tmp_path / "out").questions(i)[0]["answer"] for i in range(3)] == [f"picture {i}" for i in range(3)]
    stream = QuestionStream(str(path), {"front": "jpg"}, text="txt", fetched=str(tmp_path / "here"), split="all")
    assert len(stream) == 3 and stream.questions(1)[0]["answer"] == "picture 1" and round(stream.images(2)["front"].max()) == 2


def test_steps_of_a_tar_written_on_macos(tmp_path):
    steps = [(f"run{e}_{t}.{name}", data) for e in (0, 1) for t in (0, 1) for name, data in (("jpg", jpeg(t)), ("npy", npy([t])))]
    reader = open_reader(tar(tmp_path / "robot.tar", *with_companions(steps)))
    assert reader.format == "webdataset" and [(ref.weight, ref.damage) for ref in reader.refs()] == [(2, ""), (2, "")]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["0.jpg", "1.jpg", "0.txt", "1.txt"], "no image|only jpg; txt of the same key are elsewhere in the file"),
        (["a.v1.jpg", "a.v1.txt"], r"only v1.jpg, v1.txt; a key ends at the first dot of a name"),
        (["a.1.jpg", "a.1.txt", "a.2.jpg", "a.2.txt"], "only 1.jpg, 1.txt, 2.jpg, 2.txt; a key ends at the first dot"),
        (["0.jpg", "1.jpg"], "neither a caption nor questions .txt, json., only jpg$"),
    ],
)
def test_why_a_caption_is_missing_is_said(tmp_path, names, says):
    path = tar(tmp_path / "it.tar", *((name, jpeg(1) if name.endswith("jpg") else b"a cat") for name in names))
    reader = open_reader(path)
    for ref in reader.refs():
        with pytest.raises(UserError) as error:
            reader.read(ref)
        assert re.search(says, error.value.what) and error.value.fix, error.value


def test_members_of_steps_that_are_apart_are_named(tmp_path):
    steps = [(f"run0_{t}.{name}", data) for name, data in (("npy", npy([1])), ("jpg", jpeg(1))) for t in (0, 1)]
    (ref,) = open_reader(tar(tmp_path / "robot.tar", *steps)).refs()
    assert ref.damage == "the members of run0_1 are not all in one place of the file"


def test_a_member_that_claims_too_much_is_not_read(tmp_path):
    reader = open_reader(robot_tars(tmp_path / "tars"))
    ref = reader.refs()[0]
    samples = reader._samples(ref.location[0][0])
    samples[ref.location[0][1]].members["action.npy"] = (0, 2**40)
    with pytest.raises(UserError, match="bytes"):
        reader.read(ref)["action"]


def test_texts_may_begin_with_a_byte_order_mark(tmp_path):
    with wds.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        writer.write({"__key__": "a", "jpg": jpeg(1), "txt": b"\xef\xbb\xbfa red cube\r\n"})
    reader = open_reader(tmp_path / "a.tar")
    (ref,) = reader.refs()
    assert reader.read(ref)["questions"][0]["answer"] == "a red cube"
    with wds.TarWriter(str(tmp_path / "b.tar"), encoder=False) as writer:
        writer.write({"__key__": "e0_0", "jpg": jpeg(1), "action.npy": npy([1]), "txt": b"\xef\xbb\xbflift it"})
    reader = open_reader(tmp_path / "b.tar")
    assert reader.read(reader.refs()[0])["text"] == ["lift it"]


def test_a_data_set_without_samples_is_named(tmp_path):
    with wds.TarWriter(str(tmp_path / "a.tar"), encoder=False):
        pass
    with pytest.raises(UserError, match="no records") as error:
        make_job(ConvertOptions(str(tmp_path / "a.tar"), str(tmp_path / "out")))
    assert "card" not in str(error.value)

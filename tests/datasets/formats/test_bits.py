"""Images of more than 8 bits are refused by name in every reader and source, never clipped. Others are read as they are."""

import re

import numpy as np
import pytest
import rlds_files
from deep_images import CLIPPED, DEPTH, LEVELS, READ
from lerobot_files import IMAGE, write_v2
from rlds_files import jpeg
from test_hdf5 import LENGTHS, libero
from test_tars import image_text, robot_tars, tar
from test_visual_questions import ENTRIES, llava

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.source_card import load_source_card
from vla.datasets.formats.convert import run
from vla.datasets.formats.images import decode
from vla.datasets.formats.inspection.check import verify
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.lerobot_source import LeRobotSource
from vla.datasets.formats.readers.recognise import open_reader
from vla.datasets.images import ImageStore
from vla.datasets.index import ShardIndex
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.datasets.shards import ShardWriter, decode_jpeg, encode_member
from vla.datasets.stream import QuestionStream
from vla.errors import Unreadable, UserError
from vla.space import Space

DEEP = "more than 8 bits"


@pytest.mark.parametrize("read", [decode, decode_jpeg])
@pytest.mark.parametrize("kind", CLIPPED)
def test_grey_levels_that_would_be_clipped_are_refused(read, kind):
    with pytest.raises(UserError, match=f"the image has levels of {DEEP}") as error:
        read(CLIPPED[kind], "here")
    assert error.value.where == "here" and "card" in error.value.fix


@pytest.mark.parametrize("read", [decode, decode_jpeg])
@pytest.mark.parametrize("kind", READ)
def test_all_other_images_are_read(read, kind):
    data, pixels = READ[kind]
    assert np.array_equal(read(data, "here"), pixels)


@pytest.mark.parametrize("read", [decode, decode_jpeg])
def test_why_an_image_cannot_be_read_is_said_in_words(read):
    """Pillow's own message is "cannot identify image file <_io.BytesIO object at 0x7f…>"."""
    of_12_bits = bytearray(jpeg(1))
    of_12_bits[of_12_bits.index(b"\xff\xc0") + 4] = 12
    for data, why in [
        (b"", "it is empty"),
        (b"nothing", "damaged or of an unknown format"),
        (jpeg(1)[:30], "Truncated"),
        (of_12_bits, "damaged or of an unknown format"),
        (jpeg(1)[:-40], "(?i)truncated"),
        (READ["lossless WebP"][0][:40], "the image cannot be decoded"),
    ]:
        with pytest.raises(UserError, match=why) as error:
            read(bytes(data), "here")
        assert "0x" not in str(error.value) and "BytesIO" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"nothing", jpeg(1)[:30], b"\x89PNG\r\n\x1a\n"])
def test_conversion_and_verification_say_it_too(tmp_path, data):
    steps = rlds_files.episode(0, 3)
    steps["steps/observation/image"][1] = data
    rlds = rlds_files.write(tmp_path / "rlds", [rlds_files.episode(1, 2), steps])
    tars = image_text(tmp_path / "it", [{"jpg": jpeg(1), "txt": b"a"}, {"jpg": data, "txt": b"b"}])
    for path in (rlds, tars):
        reader = open_reader(path)
        (problem,) = verify(reader, reader.card()).problems
        report = run(make_job(ConvertOptions(str(path), f"{path}-out", skip=True)))
        for text in (problem, *report["damaged"]["records"]):
            assert re.search("image cannot be decoded|JPEG is", text) and "0x" not in text


def test_a_jpeg_of_12_bits_is_not_copied(tmp_path):
    """Its frame header says so (T.81, B.2.2)."""
    data = bytearray(jpeg(1))
    data[data.index(b"\xff\xc0") + 4] = 12
    refused(image_text(tmp_path / "it", [{"jpg": bytes(data), "txt": b"a"}]), "00000.tar, 00000000", says="")


def refused(path, *names, card=None, says="8 bits", **options):
    """Asserts that neither conversion nor verification accepts any record; all errors name the image."""
    with pytest.raises(UserError) as error:
        run(make_job(ConvertOptions(str(path), f"{path}-out", card=card or "", **options)))
    reader = open_reader(path, images=options.get("pictures", ""))
    findings = verify(reader, load_source_card(card) if card else reader.card())
    assert findings.damaged and not findings.images
    for text in (str(error.value), *findings.problems):
        assert says in text and all(name in text for name in names), text


def test_tars_of_robot_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("test_tars.jpeg", lambda value: DEPTH)
    refused(robot_tars(tmp_path / "tars"), "part-", "episode run-", "cam")


def test_images_with_captions(tmp_path):
    refused(image_text(tmp_path / "it", [{"png": DEPTH, "txt": b"far away"}] * 2), "00000.tar, 00000000")


def test_conversations(tmp_path):
    path = llava(tmp_path / "in", ENTRIES[:1])
    (tmp_path / "in/a/one.jpg").write_bytes(DEPTH)
    refused(path, "llava.json, entry 0")


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_rlds(tmp_path, dtype):
    """A described depth image is no camera. A card that names it is refused: TFDS writes floats as colours with alpha."""
    data = DEPTH if dtype == "uint16" else READ["colours with alpha"][0]
    steps = {**rlds_files.episode(0, 3), "steps/observation/far": [data] * 3}
    described = rlds_files.image()
    described["image"] |= {"dtype": dtype, "encodingFormat": "png"}
    features = rlds_files.features(
        observation=rlds_files.group(image=rlds_files.image(), state=rlds_files.tensor("float32", 2), far=described),
        action=rlds_files.tensor("float32", 7),
        language_instruction=rlds_files.text(),
    )
    folder = rlds_files.write(tmp_path / "rlds", [steps], features, files=1)
    assert run(make_job(ConvertOptions(str(folder), str(tmp_path / "out"))))["records"]["written"] == 1
    card = tmp_path / "card.yaml"
    card.write_text("cameras: {far: {key: observation/far}}\naction: [{key: action, names: [a, b, c, d, e, f, g]}]\ntext: go\n")
    refused(folder, "record 0", "observation/far", card=str(card))


def test_rlds_without_a_description(tmp_path):
    steps = {**rlds_files.episode(0, 3), "steps/observation/far": [DEPTH] * 3}
    refused(rlds_files.write(tmp_path / "rlds", [steps], False, files=1), "record 0", "far")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_hdf5(tmp_path, dtype):
    h5py = pytest.importorskip("h5py")
    path = libero(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        for name, length in LENGTHS.items():
            file[f"data/{name}/obs/far"] = np.full((length, 12, 16, 1), 500, dtype)
    reader = open_reader(path)
    assert set(reader.card().cameras) == {"agentview", "eye_in_hand"} and not verify(reader, reader.card()).damaged
    card = tmp_path / "card.yaml"
    card.write_text("cameras: {far: {key: obs/far}}\naction: [{key: actions, names: [a, b, c, d, e, f, g]}]\ntext: go\n")
    refused(path, "demo_", "obs/far", np.dtype(dtype).name, card=str(card), says="images are uint8")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_in_tars(tmp_path, dtype):
    """Arrays of 8 bits are images if a card names them."""
    pixels = (READ["lossless WebP"][1] / 255).astype(dtype) if dtype == np.float32 else READ["lossless WebP"][1].astype(dtype)
    members = [("far.npy", encode_member("npy", pixels)), ("action.npy", encode_member("npy", np.ones(2, np.float32)))]
    path = tar(tmp_path / "a.tar", *((f"run0_{t}.{name}", data) for t in range(3) for name, data in members))
    card = tmp_path / "card.yaml"
    card.write_text("cameras: {far: {key: far}}\naction: [{key: action, names: [a, b]}]\ntext: go\n")
    if dtype == np.uint8:
        run(make_job(ConvertOptions(str(path), str(tmp_path / "out"), card=str(card))))
        image = RobotSource(tmp_path / "out", chunk=1).sample(1, np.random.default_rng(0)).images["far"]
        assert np.abs(image.astype(int) - pixels).mean() < 3
    else:
        refused(path, "episode run0", "far", np.dtype(dtype).name, card=str(card), says="images are uint8")


def lerobot_of_depth(folder, monkeypatch):
    monkeypatch.setattr("lerobot_files.png", lambda pixels: DEPTH)
    write_v2(folder)
    return folder


def test_lerobot(tmp_path, monkeypatch):
    refused(lerobot_of_depth(tmp_path / "set", monkeypatch), "episode ", "wrist")


def test_lerobot_without_conversion(tmp_path, monkeypatch):
    source = LeRobotSource(lerobot_of_depth(tmp_path / "set", monkeypatch), chunk=1)
    with pytest.raises(Unreadable, match=DEEP) as error:
        source.sample(2, np.random.default_rng(0))
    assert f"episode 0, {IMAGE}, step 2" in error.value.where


def question_shards(folder, image):
    with ShardWriter(folder) as writer:
        for i in range(2):
            questions = [{"type": "what", "question": "what", "answer": "a wall"}]
            writer.write(f"q{i}", {"front.jpg": image, "json": {"questions": questions}})
    none = Space((), (), (), ())
    DatasetCard("q", "questions", "arm", Embodiment((Camera("front", 16, 16),), none, none)).save(folder)
    return folder


def test_shards_and_streams(tmp_path):
    folder = question_shards(tmp_path / "q", DEPTH)
    refused(folder, "q", "front", camera="front")
    stream = QuestionStream(f"{folder}/shard-000000.tar", {"front": "front.jpg"}, fetched=str(tmp_path / "f"), split="all")
    for source in (QuestionSource(folder), QuestionSource(folder, cache=True), stream):
        with pytest.raises(Unreadable, match=DEEP) as error:
            source.sample(1, np.random.default_rng(0))
        assert error.value.where.endswith("q1.front.jpg")
    with pytest.raises(Unreadable, match=DEEP):
        ImageStore(ShardIndex(folder), [Camera("front", 16, 16)])(0)
    read = QuestionSource(question_shards(tmp_path / "grey", READ["grey"][0])).images(0)["front"]
    assert np.array_equal(read[:, :, 1], LEVELS)

import json

import numpy as np
import pytest
from rlds_files import jpeg

from vla.datasets.formats.convert import run
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.recognise import recognise
from vla.datasets.formats.readers.visual_questions import LLaVAReader, VQAv2Reader
from vla.datasets.questions import QuestionSource
from vla.errors import UserError


def turn(who, value):
    return {"from": who, "value": value}


ENTRIES = [
    {
        "id": "1",
        "image": "a/one.jpg",
        "conversations": [
            turn("human", "<image>\nWhat is it?"),
            turn("gpt", "A cup."),
            turn("human", "Colour?"),
            turn("gpt", "Red."),
        ],
    },
    {"id": "2", "conversations": [turn("human", "2+2?"), turn("gpt", "4")]},
    {"id": "3", "image": "a/two.jpg", "conversations": [turn("human", "Is it big?\n<image>"), turn("gpt", "No.")]},
]


def llava(folder, entries=ENTRIES, name="llava.json"):
    (folder / "a").mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(("one", "two")):
        (folder / f"a/{image}.jpg").write_bytes(jpeg(i * 100))
    text = json.dumps(entries) if name.endswith(".json") else "".join(json.dumps(e) + "\n" for e in entries)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", ["llava.json", "llava.jsonl"])
def test_llava(tmp_path, name):
    path = llava(tmp_path / "in", name=name)
    assert recognise(path) == "llava"
    report = run(make_job(ConvertOptions(str(path), str(tmp_path / "out"))))
    assert report["records"] == {"found": 3, "written": 2} and report["left_out"]["no image: text alone"]["count"] == 1
    source = QuestionSource(tmp_path / "out")
    questions = [(q["question"], q["answer"]) for q in source.questions(0)]
    assert questions == [("What is it?", "A cup."), ("Colour?", "Red.")] and source.questions(1)[0]["question"] == "Is it big?"


def test_an_image_may_be_a_list_of_one(tmp_path):
    """As in LLaVA-OneVision's and LLaVA-NeXT's lists; an empty list is text alone."""
    entries = [{**ENTRIES[0], "image": ["a/two.jpg"]}, {**ENTRIES[1], "image": []}, {**ENTRIES[1], "image": None}, ENTRIES[2]]
    path = llava(tmp_path / "in", entries)
    report = run(make_job(ConvertOptions(str(path), str(tmp_path / "out"))))
    assert report["records"]["written"] == 2 and report["left_out"]["no image: text alone"]["count"] == 2
    source = QuestionSource(tmp_path / "out")
    assert np.array_equal(source.images(0)["image"], source.images(1)["image"]) and len(source.questions(0)) == 2


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"image": "../../secret.jpg"}, "leaves the data set's folder"),
        ({"image": "a/none.jpg"}, "none.jpg cannot be read"),
        ({"conversations": [turn("gpt", "Yes.")]}, "take turns"),
        ({"conversations": "what?"}, "no conversations"),
        ({"image": ["a/one.jpg", "a/two.jpg"]}, "2 images, not one"),
        ({"image": {"path": "a/one.jpg"}}, "not a file's name"),
        ({"image": [["a/one.jpg"]]}, "not a file's name"),
    ],
)
def test_entries_that_cannot_be_used_are_named(tmp_path, entry, why):
    path = llava(tmp_path / "in", [ENTRIES[0], {**ENTRIES[2], **entry}])
    report = run(make_job(ConvertOptions(str(path), str(tmp_path / "out"), skip=True)))
    assert (
        report["records"]["written"] == 1
        and why in report["damaged"]["records"][0]
        and "entry 1" in report["damaged"]["records"][0]
    )


def vqa(folder, change=lambda questions, annotations: None):
    folder.mkdir()
    questions = [
        {"image_id": 42, "question": "How many?", "question_id": 1},
        {"image_id": 42, "question": "Which?", "question_id": 2},
    ]
    questions.append({"image_id": 7, "question": "Where?", "question_id": 3})
    annotations = [
        {
            "question_id": n,
            "image_id": q["image_id"],
            "question_type": "x",
            "answer_type": kind,
            "multiple_choice_answer": best,
            "answers": [{"answer": best, "answer_confidence": "yes", "answer_id": k} for k in range(1, 11)],
        }
        for n, q, kind, best in zip((1, 2, 3), questions, ("number", "other", "other"), ("2", "red", "here"), strict=True)
    ]
    change(questions, annotations)
    common = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "train2014"}
    path = folder / "v2_OpenEnded_mscoco_train2014_questions.json"
    path.write_text(json.dumps({**common, "task_type": "Open-Ended", "questions": questions}))
    (folder / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({**common, "annotations": annotations}))
    (folder / "images").mkdir()
    for image in (42, 7):
        (folder / f"images/COCO_train2014_{image:012d}.jpg").write_bytes(jpeg(image))
    return path


def test_vqav2(tmp_path):
    path = vqa(tmp_path / "in")
    assert recognise(path) == "vqav2"
    report = run(make_job(ConvertOptions(str(path), str(tmp_path / "out"), images=str(tmp_path / "in/images"))))
    assert report["records"]["written"] == 2 and report["questions"] == {"number": 1, "other": 2}
    first = QuestionSource(tmp_path / "out").questions(0)
    assert [(q["question"], q["answer"]) for q in first] == [("How many?", "2"), ("Which?", "red")]
    assert first[0]["answers"] == ["2"] * 10


def test_easy_vqa(tmp_path):
    (tmp_path / "in/images").mkdir(parents=True)
    for image in (0, 12):
        (tmp_path / f"in/images/{image}.png").write_bytes(jpeg(image))
    path = tmp_path / "in/questions.json"
    asked = [["what is the blue shape?", "rectangle", 0], ["is there a red shape?", "no", 12], ["is it blue?", "yes", 0]]
    path.write_text(json.dumps([*asked, ["what?", "circle"], ["is it?", True, 0], "no"]))
    assert recognise(path) == "easy-vqa"
    report = run(make_job(ConvertOptions(str(path), str(tmp_path / "out"), camera="front", skip=True)))
    assert report["records"]["written"] == 2 and report["questions"] == {"other": 1, "yes/no": 2}
    assert ["entry 3" in d or "entry 4" in d or "entry 5" in d for d in report["damaged"]["records"]] == [True] * 3
    source = QuestionSource(tmp_path / "out")
    assert [(q["question"], q["answer"]) for q in source.questions(0)] == [tuple(asked[0][:2]), tuple(asked[2][:2])]
    assert source.images(1).keys() == {"front"}


def test_questions_without_answers_are_named(tmp_path):
    path = vqa(tmp_path / "in", lambda q, a: a.pop(1))
    refs = VQAv2Reader(path, str(tmp_path / "in/images")).refs()
    assert [ref.damage for ref in refs if ref.damage] == ["v2_mscoco_train2014_annotations.json has no annotation for it"]
    (tmp_path / "in/v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(UserError, match="annotations file is not next to it"):
        VQAv2Reader(path, str(tmp_path / "in/images")).refs()


def test_files_that_are_not_json(tmp_path):
    (tmp_path / "x.json").write_text("[1, 2")
    with pytest.raises(UserError, match="not JSON"):
        LLaVAReader(tmp_path / "x.json").refs()
    (tmp_path / "y.json").write_text("[[" * 100_000)
    with pytest.raises(UserError, match="not JSON"):
        LLaVAReader(tmp_path / "y.json").refs()


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", lambda entries: BOM + json.dumps(entries, indent=1).replace("\n", "\r\n").encode()),
        ("lines.jsonl", lambda entries: BOM + b"\r\n".join(json.dumps(e).encode() for e in entries) + b"\r\n\r\n"),
        ("lines.json", lambda entries: b"\n".join(json.dumps(e).encode() for e in entries)),
        ("list.jsonl", lambda entries: json.dumps(entries).encode()),
        ("LIST.JSON", lambda entries: json.dumps(entries).encode()),
    ],
)
def test_lists_and_lines_of_any_name_and_origin(tmp_path, name, content):
    path = llava(tmp_path, name="llava.json").with_name(name)
    path.write_bytes(content(ENTRIES))
    assert recognise(path) == "llava"
    refs = LLaVAReader(path).refs()
    assert [ref.name for ref in refs] == [f"{path}, entry {n}" for n in range(3)] and not any(ref.damage for ref in refs)


def test_a_blank_line_keeps_the_numbers_of_the_others(tmp_path):
    path = llava(tmp_path, name="llava.jsonl")
    first, second, _ = path.read_text().splitlines()
    path.write_text(f"{first}\n\n{second[:20]}\n{second}\n")
    refs = LLaVAReader(path).refs()
    assert [ref.name.rpartition(" ")[2] for ref in refs] == ["0", "2", "3"] and [bool(ref.damage) for ref in refs] == [
        False,
        True,
        False,
    ]


def test_vqav2_with_a_byte_order_mark(tmp_path):
    path = vqa(tmp_path / "in")
    for file in path.parent.glob("*.json"):
        file.write_bytes(BOM + file.read_bytes())
    assert recognise(path) == "vqav2" and not any(ref.damage for ref in VQAv2Reader(path).refs())


def test_windows_and_absolute_paths(tmp_path):
    def image(path, images=""):
        reader = LLaVAReader(llava(tmp_path / "in", [{**ENTRIES[0], "image": path}]), images)
        return list(reader.read(reader.refs()[0])["picture"].rows([0]))

    inside = (tmp_path / "in/a/one.jpg").resolve()
    assert image("a\\one.jpg") == image(str(inside)) == [inside.read_bytes()]
    other = llava(tmp_path / "other").parent / "a/one.jpg"
    with pytest.raises(UserError, match="lies outside of") as error:
        image(str(other))
    assert "--images" in str(error.value)
    assert image(str(other), str(tmp_path / "other"))

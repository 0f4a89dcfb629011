"""LLaVA's and VQAv2's JSON files: images, turns, encodings."""

from __future__ import annotations

import json
from pathlib import Path

from outside import written
from outside.tar_files import conversation, llava, numbered_image
from outside.trial import Trial, case


def entries(count: int = 3, **changes) -> list[dict]:
    return [{"id": n, "image": f"{n}.jpg", "conversations": conversation(n), **changes} for n in range(count)]


def converted(trial: Trial, source: str | Path, count: int = 3, code: int = 0, more: tuple[str, ...] = (), **checks) -> list:
    trial.vla("data", "convert", source, "out", "--workers=1", *more, code=code, **checks)
    questions = written.questions(trial.folder / "out")
    trial.equal("images", len(questions), count)
    return questions


@case()
def one_image_in_a_list(trial: Trial) -> None:
    """`"image": ["0.jpg"]` is one image."""
    llava(trial.folder / "in", [{**entry, "image": [entry["image"]]} for entry in entries()])
    trial.equal("answers", [q[0][1] for q in converted(trial, "in/chat.json")], [f"object {n}" for n in range(3)])


@case()
def several_images_in_a_list(trial: Trial) -> None:
    """An entry with two images is named with their number; the others are converted with --on-error skip."""
    llava(trial.folder / "in", [*entries(2), {**entries(3)[2], "image": ["0.jpg", "1.jpg"]}])
    converted(trial, "in/chat.json", 2, 1, ("--on-error=skip",), says="entry 2.*2 images")


@case("bytedance/Sa2VA#21")
def an_image_that_is_missing(trial: Trial) -> None:
    """An image that was not downloaded is named; --on-error skip leaves it out and counts it."""
    llava(trial.folder / "in", entries(4))
    trial.vla("data", "convert", "in/chat.json", "out", "--workers=1", code=2, says=r"3\.jpg")
    converted(trial, "in/chat.json", 3, 1, ("--on-error=skip", "--overwrite"), says="damaged: 1")


@case("TinyLLaVA/TinyLLaVA_Factory#91")
def images_in_another_folder(trial: Trial) -> None:
    """--images names the folder of the images, and the error without it says so."""
    llava(trial.folder / "images", [])
    llava(trial.folder / "in", entries(), images=0)
    trial.vla("data", "convert", "in/chat.json", "out", code=2, says=["--images", r"0\.jpg"])
    converted(trial, "in/chat.json", more=("--images=images",))


@case()
def absolute_paths(trial: Trial) -> None:
    """An absolute path below the folder is read; one elsewhere is refused with the option that allows it."""
    root = trial.folder / "in"
    llava(root, [{**entry, "image": str(root / entry["image"])} for entry in entries()])
    converted(trial, "in/chat.json")
    (trial.folder / "elsewhere").mkdir()
    (trial.folder / "elsewhere/0.jpg").write_bytes(numbered_image(0))
    llava(trial.folder / "other", [{**entries(1)[0], "image": str(trial.folder / "elsewhere/0.jpg")}])
    trial.vla("data", "convert", "other/chat.json", "out2", code=2, says="--images")
    trial.vla("data", "convert", "other/chat.json", "out2", "--images=elsewhere", "--workers=1")


@case()
def paths_of_windows(trial: Trial) -> None:
    r"""`images\0.jpg` names the same file as `images/0.jpg`."""
    llava(trial.folder / "in/images", [])
    llava(trial.folder / "in", [{**entry, "image": f"images\\{entry['image']}"} for entry in entries()], images=0)
    converted(trial, "in/chat.json")


@case()
def a_path_that_leaves_the_folder(trial: Trial) -> None:
    """`../secret.jpg` is refused, and nothing of it is written."""
    (trial.folder / "secret.jpg").write_bytes(numbered_image(0))
    llava(trial.folder / "in", [{**entries(1)[0], "image": "../secret.jpg"}])
    trial.vla("data", "convert", "in/chat.json", "out", code=2, says="leaves")


@case()
def turns_that_end_with_a_question(trial: Trial) -> None:
    """A last question without an answer is left out, the pairs before it are kept."""
    turns = [*conversation(0), {"from": "human", "value": "and now?"}]
    llava(trial.folder / "in", [{**entries(1)[0], "conversations": turns}])
    trial.equal("questions", converted(trial, "in/chat.json", 1), [[("what is 0?", "object 0")]])


@case()
def turns_that_begin_with_the_answer(trial: Trial) -> None:
    """An entry that begins with gpt is named, and left out with --on-error skip."""
    llava(trial.folder / "in", [*entries(2), {**entries(3)[2], "conversations": conversation(2)[::-1]}])
    converted(trial, "in/chat.json", 2, 1, ("--on-error=skip",), says="entry 2.*turns")


@case("zhiyuanyou/DeQA-Score#3")
def entries_without_conversations(trial: Trial) -> None:
    """An entry without conversations is named."""
    llava(trial.folder / "in", [*entries(2), {"id": 2, "image": "2.jpg", "text": "hello"}])
    converted(trial, "in/chat.json", 2, 1, ("--on-error=skip",), says="entry 2.*conversations")


@case("haotian-liu/LLaVA#134")
def chinese_and_escapes(trial: Trial) -> None:
    """Chinese text, escaped or not, arrives as it is."""
    turns = [{"from": "human", "value": "<image>\n这是什么"}, {"from": "gpt", "value": "红色方块 🟥"}]
    path = llava(trial.folder / "in", entries(2, conversations=turns))
    path.write_text(json.dumps(entries(2, conversations=turns), ensure_ascii=False), encoding="utf-8")
    trial.equal("questions", converted(trial, "in/chat.json", 2), [[("这是什么", "红色方块 🟥")]] * 2)


@case()
def a_byte_order_mark(trial: Trial) -> None:
    """Files that Windows wrote, with a byte order mark and CRLF, are read: list and lines."""
    path = llava(trial.folder / "in", entries())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"}, {", b"},\r\n {"))
    converted(trial, "in/chat.json")
    lines = "\r\n".join(json.dumps(entry) for entry in entries())
    (trial.folder / "in/chat.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"\r\n\r\n")
    trial.vla("data", "convert", "in/chat.jsonl", "out2", "--workers=1")
    trial.equal("images of the lines", len(written.samples(trial.folder / "out2")), 3)


@case()
def lines_under_the_name_json(trial: Trial) -> None:
    """One object per line in a file that is named .json is read as lines."""
    path = llava(trial.folder / "in", [])
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries()))
    converted(trial, "in/chat.json")


@case()
def one_broken_line(trial: Trial) -> None:
    """A line that is cut off is named by its number; the others are converted with --on-error skip."""
    llava(trial.folder / "in", [])
    text = [json.dumps(entry) for entry in entries()]
    (trial.folder / "in/chat.jsonl").write_text("\n".join([text[0], text[1][:30], text[2]]) + "\n")
    converted(trial, "in/chat.jsonl", 2, 1, ("--on-error=skip",), says="entry 1")


@case()
def text_alone(trial: Trial) -> None:
    """Entries without an image are left out and counted, without an error."""
    alone = [{"id": 7, "conversations": conversation(7)}, {"id": 8, "image": "", "conversations": conversation(8)}]
    llava(trial.folder / "in", [*entries(2), *alone])
    converted(trial, "in/chat.json", 2, says="left out: 2")


@case()
def an_extension_in_capitals(trial: Trial) -> None:
    """CHAT.JSON is a file of conversations."""
    llava(trial.folder / "in", entries(), "CHAT.JSON")
    converted(trial, "in/CHAT.JSON")


def vqa(folder: Path, mark: bytes = b"") -> None:
    """VQAv2's pair of files and three images."""
    folder.mkdir()
    questions = [{"image_id": n, "question": f"what is {n}?", "question_id": 10 + n} for n in range(3)]
    answers = [
        {"image_id": n, "question_id": 10 + n, "answer_type": "other", "multiple_choice_answer": f"object {n}", "answers": []}
        for n in range(3)
    ]
    head = {"info": {}, "data_subtype": "val2014"}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_bytes(
        mark + json.dumps({**head, "questions": questions}).encode()
    )
    (folder / "v2_mscoco_val2014_annotations.json").write_bytes(mark + json.dumps({**head, "annotations": answers}).encode())
    for n in range(3):
        (folder / f"COCO_val2014_{n:012d}.jpg").write_bytes(numbered_image(n))


@case()
def vqa_with_a_byte_order_mark(trial: Trial) -> None:
    """VQAv2's files with a byte order mark are recognised and read."""
    vqa(trial.folder / "in", b"\xef\xbb\xbf")
    questions = converted(trial, "in/v2_OpenEnded_mscoco_val2014_questions.json")
    trial.equal("answers", [q[0][1] for q in questions], [f"object {n}" for n in range(3)])

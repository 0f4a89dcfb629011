"""Reads images with questions described by JSON files: LLaVA's conversations, VQAv2's pairs of files, easy-VQA's triples."""

from __future__ import annotations

import codecs
import collections
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from vla.datasets.formats.conventions.prepare import Dropped
from vla.datasets.formats.conventions.source_card import CameraKey, SourceCard
from vla.datasets.formats.readers.base import LIMIT, Json, Raw, Reader, Ref, inside
from vla.errors import UserError
from vla.files import why_not_data

IMAGE = "picture"
"""Name of the image in a record."""
PLACEHOLDER = re.compile(r"\s*<(image|video)>\s*")


class ImageFile:
    """One image in a file of its own."""

    def __init__(self, path: Path, where: str):
        self.path, self.where = path, where

    def __len__(self) -> int:
        return 1

    def rows(self, rows: Sequence[int]) -> Iterable[bytes]:
        try:
            if self.path.stat().st_size > LIMIT:
                raise UserError("the image file is larger than 2 GiB", self.where)
            data = self.path.read_bytes()
        except OSError as error:
            what = f"the image {self.path.name} cannot be read: {error.strerror}"
            raise UserError(what, self.where, "name the folder of the images: --images") from error
        return (data for _ in rows)


class _JsonReader(Reader):
    """Reader of a JSON file and a folder of images, by default the file's own folder."""

    kind = "questions"

    def __init__(self, path: str | Path, images: str = ""):
        super().__init__(path)
        self.root = Path(images) if images else self.path.parent
        if not self.root.is_dir():
            raise UserError("there is no such folder", str(self.root), "name the folder of the images: --images")

    def read(self, ref: Ref) -> Raw:
        name, questions = ref.location
        if not name:
            raise Dropped("no image: text alone")
        if not questions:
            raise Dropped("no question with an answer")
        return {IMAGE: ImageFile(self._image(name, ref.name), ref.name), "questions": list(questions)}

    def _image(self, name: str, where: str) -> Path:
        """The file of an image. Windows separates folders by backslashes."""
        if Path(name).is_absolute() and not Path(name).resolve().is_relative_to(self.root.resolve()):
            raise UserError(f"the image {name} lies outside of {self.root}", where, "name the folder of the images: --images")
        path = inside(self.root, name, where)
        return inside(self.root, name.replace("\\", "/"), where) if "\\" in name and not path.exists() else path

    def card(self) -> SourceCard:
        return SourceCard(title=self.path.stem, embodiment="pictures", cameras={IMAGE: CameraKey(IMAGE)})


class LLaVAReader(_JsonReader):
    """Reader of a list of {id, image, conversations: [{from: human or gpt, value}]}, as JSON or one object per line.

    `image` is a file's name or a list of one. Entries without an image are text alone.
    """

    format = "llava"

    def refs(self) -> list[Ref]:
        refs = []
        for number, entry in _entries(self.path):
            name = f"{self.path}, entry {number}"
            try:
                if not isinstance(entry, dict):
                    raise UserError("the entry is not an object", name)
                image = _image_name(entry.get("image"), name)
                questions = conversation(entry.get("conversations"), name)
            except UserError as error:
                refs.append(Ref(name, 1, (), error.what))
            else:
                refs.append(Ref(name, 1, (image, questions)))
        return refs


def _image_name(image: Json, where: str) -> str:
    """Returns an entry's image, "" if it has none; UserError if it has several, or something else than a name."""
    if isinstance(image, list):
        if len(image) > 1:
            raise UserError(f"the entry has {len(image)} images, not one", where)
        image = image[0] if image else ""
    if isinstance(image, dict | list):
        raise UserError("the entry's image is not a file's name", where)
    return str(image or "")


def conversation(turns: Json, where: str) -> list[dict[str, Any]]:
    """Pairs each human turn with the answer after it, without the image's placeholder; UserError if they do not alternate."""
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        raise UserError("the entry has no conversations with from and value", where)
    spoken = [cast(dict[str, str], t) for t in turns if cast(dict[str, str], t).get("from") != "system"]
    if [t.get("from") in ("human", "user") for t in spoken] != [k % 2 == 0 for k in range(len(spoken))]:
        raise UserError("human and gpt do not take turns", where)
    return [
        {"type": "conversation", "question": PLACEHOLDER.sub(" ", q["value"]).strip(), "answer": a["value"].strip()}
        for q, a in zip(spoken[::2], spoken[1::2], strict=False)
    ]


class VQAv2Reader(_JsonReader):
    """Reader of a questions file and the annotations file next to it, joined by question_id; one record per image."""

    format = "vqav2"

    def _annotations(self) -> Path:
        """Finds the annotations file: v2_mscoco_X_annotations.json for v2_OpenEnded_mscoco_X_questions.json."""
        stem = self.path.name.replace("questions", "annotations")
        for name in (stem, stem.replace("OpenEnded_", ""), stem.replace("MultipleChoice_", "")):
            if name != self.path.name and (self.path.parent / name).is_file():
                return self.path.parent / name
        raise UserError("its annotations file is not next to it", str(self.path), f"put {stem.replace('OpenEnded_', '')} there")

    def refs(self) -> list[Ref]:
        path = self._annotations()
        question_file, annotation_file = _object(self.path), _object(path)
        annotations = {str(a.get("question_id")): a for a in _list_of(annotation_file, "annotations", path)}
        subtype = str(question_file.get("data_subtype") or annotation_file.get("data_subtype") or "")
        by_image: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
        refs = []
        for entry in _list_of(question_file, "questions", self.path):
            number, image = entry.get("question_id"), entry.get("image_id")
            where = f"{self.path}, question {number}"
            if not isinstance(entry.get("question"), str) or not isinstance(image, int) or number is None:
                refs.append(Ref(where, 1, (), "the question lacks question, question_id or image_id"))
                continue
            annotation = annotations.get(str(number))
            if annotation is None:
                refs.append(Ref(where, 1, (), f"{path.name} has no annotation for it"))
                continue
            entries = annotation.get("answers")
            answers = [str(a.get("answer", "")) for a in entries if isinstance(a, dict)] if isinstance(entries, list) else []
            most_common = collections.Counter(answers).most_common(1)
            best = annotation.get("multiple_choice_answer") or (most_common[0][0] if most_common else "")
            if not isinstance(best, str) or not best:
                refs.append(Ref(where, 1, (), "its annotation has no answer"))
                continue
            question = {"type": str(annotation.get("answer_type", "other")), "question": entry["question"], "answer": best}
            # The score compares with the answers of all ten people.
            by_image[image].append({**question, "answers": answers} if answers else question)
        for image, questions in by_image.items():
            file = f"COCO_{subtype}_{image:012d}.jpg" if subtype else f"{image:012d}.jpg"
            refs.append(Ref(f"{self.path}, picture {image}", 1, (file, questions)))
        return refs


class EasyVQAReader(_JsonReader):
    """Reader of a list of [question, answer, number of the image], whose images are NUMBER.png; one record per image.

    Its images are in the folder `images` beside the file, unless another one is given.
    """

    format = "easy-vqa"

    def __init__(self, path: str | Path, images: str = ""):
        beside = Path(path).parent / "images"
        super().__init__(path, images or (str(beside) if beside.is_dir() else ""))

    def refs(self) -> list[Ref]:
        by_image: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
        refs = []
        for number, entry in _entries(self.path):
            if not _is_triple(entry):
                refs.append(
                    Ref(f"{self.path}, entry {number}", 1, (), "the entry is not a question, an answer and an image's number")
                )
                continue
            question, answer, image = cast(tuple[str, str, int], entry)
            kind = "yes/no" if answer in ("yes", "no") else "other"
            by_image[image].append({"type": kind, "question": question, "answer": answer})
        for image, questions in by_image.items():
            refs.append(Ref(f"{self.path}, picture {image}", 1, (f"{image}.png", questions)))
        return refs


def _is_triple(entry: Json) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [str, str, int]


def _object(path: Path) -> dict[str, Any]:
    value = _load(path)
    if not isinstance(value, dict):
        raise UserError("the file is not a JSON object", str(path))
    return value


def _list_of(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"the file has no list of {name}", str(path))
    return entries


def _load(path: Path) -> Json:
    if why := why_not_data(path):
        raise UserError(why, str(path))
    try:
        if path.stat().st_size > LIMIT:
            raise UserError("the file is larger than 2 GiB", str(path), "split it")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", str(path), "copy the file again") from error


def _entries(path: Path) -> list[tuple[int, Json]]:
    """Reads the numbered entries of a list, or of a file with one per line, whatever its name; a broken line becomes None."""
    if not _has_lines(path):
        value = _load(path)
        if not isinstance(value, list):
            raise UserError("the file is not a list", str(path), "give a list of LLaVA's conversations")
        return list(enumerate(value))
    entries = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if line.strip():
                try:
                    entries.append((number, json.loads(line)))
                except (ValueError, RecursionError):
                    entries.append((number, None))
    return entries


def _has_lines(path: Path) -> bool:
    """Whether a file has an object per line: its first line is one, or its name says so and it does not begin as a list."""
    with path.open("rb") as file:
        first = file.readline(LIMIT).removeprefix(codecs.BOM_UTF8).strip()
    if path.suffix.lower() == ".jsonl":
        return not first.startswith(b"[")
    try:
        return first.startswith(b"{") and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False

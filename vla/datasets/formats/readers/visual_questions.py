"""Pictures with questions in JSON files: LLaVA's conversations and VQAv2's pairs of files."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vla.datasets.formats.conventions.prepare import Dropped
from vla.datasets.formats.conventions.source_card import CameraKey, SourceCard
from vla.datasets.formats.readers.base import LIMIT, Raw, Reader, Ref, inside
from vla.errors import UserError

PICTURE = "picture"
MARK = re.compile(r"\s*<(image|video)>\s*")


class PictureFile:
    """One picture in a file of its own."""

    def __init__(self, path: Path, where: str):
        self.path, self.where = path, where

    def __len__(self) -> int:
        return 1

    def rows(self, rows: Sequence[int]) -> Iterable[bytes]:
        try:
            if self.path.stat().st_size > LIMIT:
                raise UserError("a picture file of more than 2 GiB", self.where)
            data = self.path.read_bytes()
        except OSError as error:
            raise UserError(
                f"the picture {self.path.name} cannot be read: {error.strerror}", self.where, "say where: --pictures"
            ) from error
        return (data for _ in rows)


class _Files(Reader):
    """A JSON file and a folder of pictures (by default the one that the file is in)."""

    kind = "questions"

    def __init__(self, path: str | Path, pictures: str = ""):
        super().__init__(path)
        self.root = Path(pictures) if pictures else self.path.parent
        if not self.root.is_dir():
            raise UserError("there is no such folder", str(self.root), "say where the pictures are: --pictures")

    def read(self, ref: Ref) -> Raw:
        name, questions = ref.place
        if not name:
            raise Dropped("no picture: text alone")
        if not questions:
            raise Dropped("no question with an answer")
        return {PICTURE: PictureFile(inside(self.root, name, ref.name), ref.name), "questions": list(questions)}

    def card(self) -> SourceCard:
        return SourceCard(title=self.path.stem, embodiment="pictures", cameras={PICTURE: CameraKey(PICTURE)})


class LLaVAReader(_Files):
    """A list of {id, image, conversations: [{from: human or gpt, value}]}, as JSON or one object per line."""

    format = "llava"

    def refs(self) -> list[Ref]:
        refs = []
        for number, entry in enumerate(_entries(self.path)):
            name = f"{self.path}, entry {number}"
            try:
                if not isinstance(entry, dict):
                    raise UserError("not an object", name)
                image = entry.get("image", "")
                if isinstance(image, list):
                    raise UserError(f"{len(image)} pictures", name)
                questions = conversation(entry.get("conversations"), name)
            except UserError as error:
                refs.append(Ref(name, 1, (), error.what))
            else:
                refs.append(Ref(name, 1, (str(image or ""), questions)))
        return refs


def conversation(turns: Any, where: str) -> list[dict[str, Any]]:
    """Each human turn with the answer that follows it, without the picture's mark; UserError if they do not take turns."""
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        raise UserError("it has no conversations with from and value", where)
    turns = [t for t in turns if t.get("from") != "system"]
    if [t.get("from") in ("human", "user") for t in turns] != [k % 2 == 0 for k in range(len(turns))]:
        raise UserError("human and gpt do not take turns", where)
    pairs = zip(turns[::2], turns[1::2], strict=False)
    return [
        {"type": "conversation", "question": MARK.sub(" ", q["value"]).strip(), "answer": a["value"].strip()} for q, a in pairs
    ]


class VQAv2Reader(_Files):
    """A questions file and, beside it, the annotations file of the same name; joined by question_id, one record per picture."""

    format = "vqav2"

    def _annotations(self) -> Path:
        """The annotations that belong to the questions: v2_OpenEnded_mscoco_X_questions.json, v2_mscoco_X_annotations.json."""
        body = self.path.name.replace("questions", "annotations")
        for name in (body, body.replace("OpenEnded_", ""), body.replace("MultipleChoice_", "")):
            if name != self.path.name and (self.path.parent / name).is_file():
                return self.path.parent / name
        raise UserError("its annotations file is not beside it", str(self.path), f"put {body.replace('OpenEnded_', '')} there")

    def refs(self) -> list[Ref]:
        path = self._annotations()
        body, answered = _object(self.path), _object(path)
        answers = {str(a.get("question_id")): a for a in _listed(answered, "annotations", path)}
        subtype = str(body.get("data_subtype") or answered.get("data_subtype") or "")
        pictures: dict[Any, list[dict[str, Any]]] = collections.defaultdict(list)
        refs = []
        for entry in _listed(body, "questions", self.path):
            number, image = entry.get("question_id"), entry.get("image_id")
            where = f"{self.path}, question {number}"
            if not isinstance(entry.get("question"), str) or not isinstance(image, int) or number is None:
                refs.append(Ref(where, 1, (), "it lacks question, question_id or image_id"))
                continue
            said = answers.get(str(number))
            if said is None:
                refs.append(Ref(where, 1, (), f"{path.name} has no answer to it"))
                continue
            ten = said.get("answers")
            found = [str(a.get("answer", "")) for a in ten if isinstance(a, dict)] if isinstance(ten, list) else []
            best = said.get("multiple_choice_answer") or (collections.Counter(found).most_common(1)[0][0] if found else "")
            if not isinstance(best, str) or not best:
                refs.append(Ref(where, 1, (), "its annotation holds no answer"))
                continue
            question = {"type": str(said.get("answer_type", "other")), "question": entry["question"], "answer": best}
            # All ten people's answers, for the score.
            pictures[image].append({**question, "answers": found} if found else question)
        for image, questions in pictures.items():
            file = f"COCO_{subtype}_{image:012d}.jpg" if subtype else f"{image:012d}.jpg"
            refs.append(Ref(f"{self.path}, picture {image}", 1, (file, questions)))
        return refs


def _object(path: Path) -> dict[str, Any]:
    value = _loaded(path)
    if not isinstance(value, dict):
        raise UserError("not a JSON object", str(path))
    return value


def _listed(body: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    entries = body.get(name)
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"it has no list of {name}", str(path))
    return entries


def _loaded(path: Path) -> Any:
    try:
        if path.stat().st_size > LIMIT:
            raise UserError("more than 2 GiB of JSON", str(path), "divide it")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", str(path), "copy the file again") from error


def _entries(path: Path) -> list[Any]:
    if path.suffix != ".jsonl":
        value = _loaded(path)
        if not isinstance(value, list):
            raise UserError("not a list", str(path), "LLaVA's files are lists of conversations")
        return value
    entries = []
    with path.open("rb") as lines:
        for line in lines:
            try:
                entries.append(json.loads(line))
            except (ValueError, RecursionError):
                entries.append(None)
    return entries

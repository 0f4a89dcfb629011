"""WebDataset tar files: robot steps or pictures with texts, our own shards and other people's."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.from_card import from_card
from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, vector_names
from vla.datasets.formats.readers.base import LIMIT, Raw, Reader, Ref
from vla.datasets.formats.readers.visual_questions import PICTURE, conversation
from vla.datasets.shards import decode_array, decode_json
from vla.errors import UserError

PICTURE_ENDS = ("jpg", "jpeg", "png", "webp")
EPISODE = ("episode", "episode_index", "episode_id", "trajectory", "traj")
STEP = ("step", "step_index", "frame_index", "frame", "index", "t")
WORDS = ("instruction", "language_instruction", "task", "text", "prompt", "language")
DIGITS = re.compile(r"[0-9]{1,18}\Z")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sample of a tar file: its key, and where its members (by extension) lie: offset and size."""

    key: str
    places: dict[str, tuple[int, int]]


class CutOff(UserError):
    """From here on a tar file cannot be read."""


def members(path: Path, at_most: int = 0) -> Iterator[Sample]:
    """The samples of a tar file: members in a row whose names are equal up to the first dot.

    Raises:
        CutOff: the file is damaged or ends too early; the samples before are whole.
    """
    size, count = path.stat().st_size, 0
    sample = Sample("", {})
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                tar.members.clear()  # type: ignore[attr-defined]
                folder, _, name = entry.name.rpartition("/")
                key, dot, extension = name.partition(".")
                if not entry.isfile() or not dot:
                    continue
                key = f"{folder}/{key}" if folder else key
                if entry.offset_data + entry.size > size:
                    raise CutOff("the file ends within a member", f"{path}, {key}", "copy the file again")
                if key != sample.key:
                    if sample.places:
                        yield sample
                        count += 1
                        if count == at_most:
                            return
                    sample = Sample(key, {})
                sample.places[extension.lower()] = (entry.offset_data, entry.size)
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise CutOff("the file is cut off: its end mark is missing", f"{path}, {sample.key}", "copy the file again")
    except (tarfile.TarError, OverflowError, ValueError) as error:
        raise CutOff(f"not a tar file, or damaged: {error}", f"{path}, {sample.key}", "copy the file again") from error
    if sample.places:
        yield sample


def fetch(path: str, place: tuple[int, int], where: str) -> bytes:
    """A member's bytes."""
    offset, size = place
    if size > LIMIT:
        raise UserError(f"a member of {size} bytes", where, f"at most {LIMIT} are read")
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise UserError("the file ends within a member", where, "copy the file again")
    return data


@dataclasses.dataclass(frozen=True)
class TarFrames:
    """A camera's pictures of an episode's steps."""

    path: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    where: str

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, rows: Sequence[int]) -> Iterable[bytes]:
        return (fetch(self.path[row], self.places[row], self.where) for row in rows)


class TarReader(Reader):
    """Robot steps in tar files (one sample per step): pictures, `NAME.npy` arrays, and JSON or texts. Episode and step are
    said in the JSON, or by the numbers in the key. Steps may be in any order and in any file.
    """

    format = "webdataset"

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.files = sorted(self.path.glob("*.tar")) if self.path.is_dir() else [self.path]
        if not self.files:
            raise UserError("no *.tar files", str(path))

    def refs(self) -> list[Ref]:
        episodes: dict[str, list[tuple[int, int, int]]] = {}
        lost, lengths = [], {}
        for number, path in enumerate(self.files):
            row = 0
            try:
                for row, sample in enumerate(members(path)):
                    try:
                        episode, step, length = self._numbers(str(path), sample)
                    except UserError as error:
                        lost.append(Ref(f"{path}, {sample.key}", 0, (), error.what))
                        continue
                    episodes.setdefault(episode, []).append((step, number, row))
                    lengths[episode] = length
            except CutOff as error:
                lost.append(Ref(error.where, 0, (), f"{error.what}; nothing after it can be read"))
        refs = []
        for name in sorted(episodes, key=_naturally):
            steps = sorted(episodes[name])
            place = tuple((number, row) for _, number, row in steps)
            damage = ""
            if [s for s, _, _ in steps] != list(range(steps[0][0], steps[0][0] + len(steps))):
                damage = "steps are missing, or occur twice"
            elif lengths[name] and (lengths[name] != len(steps) or steps[0][0]):
                damage = f"it has {len(steps)} of its {lengths[name]} steps"
            refs.append(Ref(f"{self.files[steps[0][1]]}, episode {name}", len(steps), place, damage))
        return refs + lost

    def _numbers(self, path: str, sample: Sample) -> tuple[str, int, int]:
        """Episode, step and (0 if it is not said) length of a sample."""
        if "json" in sample.places:
            info = decode_json(fetch(path, sample.places["json"], sample.key), f"{path}, {sample.key}.json")
            episode = next((info[name] for name in EPISODE if name in info), None)
            step = next((info[name] for name in STEP if isinstance(info.get(name), int)), None)
            if episode is not None and step is not None:
                length = info.get("length", 0)
                return str(episode), step, length if isinstance(length, int) else 0
        match = DIGITS.search(sample.key)
        if match is None:
            raise UserError(f"neither its JSON nor its key says episode and step ({sample.key})", path)
        # The episode's name ends with the number before the last one.
        head = sample.key[: match.start()]
        return head[: max(map(head.rfind, "0123456789")) + 1], int(match[0]), 0

    @functools.cached_property
    def _tables(self) -> Any:
        return functools.lru_cache(4)(self._table)

    def _table(self, number: int) -> list[Sample]:
        samples = []
        try:
            for sample in members(self.files[number]):
                samples.append(sample)
        except CutOff:
            # Said in `refs`; the samples before it are whole.
            pass
        return samples

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}

    def read(self, ref: Ref) -> Raw:
        return self._columns(ref)[0]

    def _columns(self, ref: Ref) -> tuple[Raw, list[dict[str, Any]]]:
        """What the samples hold by name, and their JSON objects (if they have any) as they are."""
        samples = [self._tables(number)[row] for number, row in ref.place]
        paths = tuple(str(self.files[number]) for number, _ in ref.place)
        names = samples[0].places.keys()
        raw: Raw = {}
        infos: list[dict[str, Any]] = []
        for path, sample in zip(paths, samples, strict=True):
            if sample.places.keys() != names:
                differ = ", ".join(sorted(names ^ sample.places.keys()))
                raise UserError(f"its samples have different members: {differ}", f"{path}, {sample.key}")
        for name in names:
            ending = name.rpartition(".")[2]
            places = tuple(s.places[name] for s in samples)
            if ending in PICTURE_ENDS:
                raw[name.rpartition(".")[0] or "image"] = TarFrames(paths, places, f"{ref.name}, {name}")
                continue
            data = [
                (fetch(p, place, ref.name), f"{p}, {s.key}.{name}") for p, place, s in zip(paths, places, samples, strict=True)
            ]
            if ending == "npy":
                raw[name.rpartition(".")[0] or "npy"] = _stacked(data)
            elif ending == "json":
                infos = [decode_json(*entry) for entry in data]
                for key in infos[0]:
                    if (column := _column([info.get(key) for info in infos])) is not None:
                        raw.setdefault(key, column)
            elif ending in ("txt", "text"):
                raw[name.rpartition(".")[0] or "text"] = [text.decode("utf-8", "replace") for text, _ in data]
        return raw, infos

    def _pictures(self) -> list[Ref]:
        """Every sample as a record of its own."""
        refs = []
        for number, path in enumerate(self.files):
            try:
                for row, sample in enumerate(members(path)):
                    refs.append(Ref(f"{path}, {sample.key}", 1, ((number, row),)))
            except CutOff as error:
                refs.append(Ref(error.where, 0, (), f"{error.what}; nothing after it can be read"))
        return refs

    def card(self) -> SourceCard:
        ref = next((r for r in self.refs() if not r.damage), None)
        raw = self.read(ref) if ref else {}
        cameras = {name: CameraKey(name) for name, value in raw.items() if isinstance(value, TarFrames)}
        parts = {
            k: (Part(k, vector_names(k[:1], v[0].size)),)
            for k, v in raw.items()
            if isinstance(v, np.ndarray) and v.dtype.kind == "f"
        }
        return SourceCard(
            title=self.path.stem,
            cameras=cameras,
            action=parts.get("action") or parts.get("actions") or (),
            state=parts.get("state") or parts.get("observation.state") or parts.get("proprio") or (),
            instruction=tuple(k for k in WORDS if isinstance(raw.get(k), list)),
            conventions={"source": "read from the files alone: gripper, rotation, frame and rate are not said there"},
        )

    def about(self) -> dict[str, Any]:
        first = next(iter(members(self.files[0], at_most=1)), Sample("", {}))
        return {"files": len(self.files), "members of a sample": sorted(first.places)}


class ShardsReader(TarReader):
    """Our own shards, robot episodes or questions, with the card beside them."""

    format = "shards"

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.said = DatasetCard.load(self.path)
        self.kind = self.said.kind

    def refs(self) -> list[Ref]:
        there = {path.name for path in self.files}
        lost = [Ref(str(self.path / name), 0, (), "the shard is missing") for name in self.said.shards if name not in there]
        return (super().refs() if self.kind == "robot" else self._pictures()) + lost

    def read(self, ref: Ref) -> Raw:
        raw, infos = self._columns(ref)
        if not infos:
            raise UserError("it has no JSON", ref.name, "copy the shard again")
        if self.kind == "questions":
            return {**raw, "questions": infos[0].get("questions")}
        known = ("target", "segment", "point", "reach")
        raw["extra"] = [{name: info[name] for name in known if name in info} for info in infos]
        return raw

    def card(self) -> SourceCard:
        cameras = {camera.name: CameraKey(camera.name) for camera in self.said.spec.cameras}
        return from_card(self.said, cameras, "action", "state", ("instruction",))

    def about(self) -> dict[str, Any]:
        return {**super().about(), "name": self.said.name, "kind": self.kind, "counts": self.said.counts}


class ImageTextReader(TarReader):
    """Pictures with captions (.txt) or with JSON: LLaVA's `conversations`, `questions`, `question` and `answer`, or `caption`."""

    format = "image-text"
    kind = "questions"

    def refs(self) -> list[Ref]:
        return self._pictures()

    def read(self, ref: Ref) -> Raw:
        ((number, row),) = ref.place
        sample, path = self._tables(number)[row], str(self.files[number])
        picture = next((name for name in sample.places if name.rpartition(".")[2] in PICTURE_ENDS), None)
        if picture is None:
            raise UserError(f"it has no picture, only {', '.join(sample.places)}", ref.name)
        frames = TarFrames((path,), (sample.places[picture],), f"{ref.name}.{picture}")
        questions = []
        if "json" in sample.places:
            questions = asked(decode_json(fetch(path, sample.places["json"], ref.name), f"{ref.name}.json"), ref.name)
        if not questions and "txt" in sample.places:
            text = fetch(path, sample.places["txt"], ref.name).decode("utf-8", "replace").strip()
            questions = [_caption(text)] if text else []
        if not questions:
            raise UserError("it has neither a caption nor questions", ref.name)
        return {PICTURE: frames, "questions": questions}

    def card(self) -> SourceCard:
        return SourceCard(title=self.path.stem, embodiment="pictures", cameras={PICTURE: CameraKey(PICTURE)})


def asked(info: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The questions of a JSON object in any of the known forms."""
    if isinstance(info.get("conversations"), list):
        return conversation(info["conversations"], where)
    if isinstance(info.get("questions"), list):
        return info["questions"]
    if isinstance(info.get("question"), str) and isinstance(info.get("answer"), str):
        return [{"type": "question", "question": info["question"], "answer": info["answer"]}]
    text = info.get("caption") or info.get("text")
    return [_caption(text)] if isinstance(text, str) and text.strip() else []


def _caption(text: str) -> dict[str, Any]:
    return {"type": "caption", "question": "describe the picture", "answer": " ".join(text.split())}


def _stacked(data: list[tuple[bytes, str]]) -> np.ndarray:
    arrays = []
    for content, where in data:
        arrays.append(decode_array(content, where))
        if arrays[-1].shape != arrays[0].shape:
            raise UserError(f"it has shape {arrays[-1].shape}, the first step {arrays[0].shape}", where)
    return np.stack(arrays)


def _column(values: list[Any]) -> np.ndarray | list[str] | None:
    if all(isinstance(v, str) for v in values):
        return values
    lengths = {len(v) if isinstance(v, list) and all(map(_is_number, v)) else -1 for v in values}
    if not all(map(_is_number, values)) and (len(lengths) > 1 or lengths == {-1}):
        return None
    return np.array(values) if all(isinstance(v, int | bool) for v in values) else np.array(values, np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


def _naturally(name: str) -> tuple:
    words = re.split(r"([0-9]{1,18})", name)
    return tuple((0, int(word), "") if place % 2 else (1, 0, word) for place, word in enumerate(words))

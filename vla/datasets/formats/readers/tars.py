"""Reads WebDataset tar files, our own shards and other people's: robot steps, or images with texts."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.from_card import from_card
from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, vector_names
from vla.datasets.formats.readers.base import Columns, Raw, Reader, Ref, matching, natural_order
from vla.datasets.formats.readers.tar_members import IMAGE_EXTENSIONS, TarFrames, column, contents_of, fetch, keys_of, member
from vla.datasets.formats.readers.visual_questions import IMAGE, conversation
from vla.datasets.shards import decode_json
from vla.datasets.tar import CutOff, Sample, tar_samples
from vla.errors import UserError

EPISODE = ("episode", "episode_index", "episode_id", "trajectory", "traj")
STEP = ("step", "step_index", "frame_index", "frame", "index", "t")
WORDS = ("instruction", "language_instruction", "task", "text", "prompt", "language")
KEY = "a key ends at the first dot of a name"
DIGITS = re.compile(r"[0-9]{1,18}\Z")


def lower_case(path: Path) -> Iterator[Sample]:
    """Yields the samples of a tar file with their extensions in lower case, as webdataset does; CutOff as `tar_samples`."""
    for sample in tar_samples(path):
        yield dataclasses.replace(sample, members={name.lower(): extent for name, extent in sample.members.items()})


class TarReader(Reader):
    """Reader of robot steps, one sample per step: images, `NAME.npy` arrays, and JSON or texts.

    The JSON gives episode and step, or else the numbers in the key do. Steps may be in any order and in any file.
    """

    format = "webdataset"

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.files = matching(self.path, "*.tar") if self.path.is_dir() else [self.path]
        if not self.files:
            raise UserError("no *.tar files", str(path))

    def refs(self) -> list[Ref]:
        episodes: dict[str, list[tuple[int, int, int]]] = {}
        damaged, lengths, faults, apart = [], {}, {}, {}
        for number, path in enumerate(self.files):
            keys = set()
            try:
                for row, sample in enumerate(lower_case(path)):
                    try:
                        episode, step, length = self._numbers(str(path), sample)
                    except UserError as error:
                        damaged.append(Ref(f"{path}, {sample.key}", 0, (), sample.fault or error.what))
                        continue
                    episodes.setdefault(episode, []).append((step, number, row))
                    lengths[episode] = length
                    faults[episode] = faults.get(episode) or sample.fault
                    if sample.key in keys:
                        apart[episode] = f"the members of {sample.key} are not all in one place of the file"
                    keys.add(sample.key)
            except CutOff as error:
                damaged.append(Ref(error.where, 0, (), f"{error.what}; the samples after it cannot be read"))
        refs = []
        for name in sorted(episodes, key=natural_order):
            steps = sorted(episodes[name])
            location = tuple((number, row) for _, number, row in steps)
            damage = ""
            if faults[name]:
                damage = faults[name]
            elif [s for s, _, _ in steps] != list(range(steps[0][0], steps[0][0] + len(steps))):
                damage = apart.get(name, "steps are missing or occur twice")
            elif lengths[name] and (lengths[name] != len(steps) or steps[0][0]):
                damage = f"it has {len(steps)} of its {lengths[name]} steps"
            refs.append(Ref(f"{self.files[steps[0][1]]}, episode {name}", len(steps), location, damage))
        return refs + damaged

    def _numbers(self, path: str, sample: Sample) -> tuple[str, int, int]:
        """Returns a sample's episode, step and the episode's length (0 if it is unknown)."""
        if "json" in sample.members:
            info = decode_json(fetch(path, sample.members["json"], sample.key), f"{path}, {sample.key}.json")
            episode = next((info[name] for name in EPISODE if name in info), None)
            step = next((info[name] for name in STEP if isinstance(info.get(name), int)), None)
            if episode is not None and step is not None:
                length = info.get("length", 0)
                return str(episode), step, length if isinstance(length, int) else 0
        match = DIGITS.search(sample.key)
        if match is None:
            raise UserError(f"neither JSON nor key give the episode and step ({sample.key}); {KEY}", path)
        # The episode's name ends with the last number before the step.
        head = sample.key[: match.start()]
        return head[: max(map(head.rfind, "0123456789")) + 1], int(match[0]), 0

    @functools.cached_property
    def _samples(self) -> Callable[[int], list[Sample]]:
        """Returns the samples of a file by its number; keeps those of some files."""
        return functools.lru_cache(4)(self._read_samples)

    def _read_samples(self, number: int) -> list[Sample]:
        samples = []
        try:
            for sample in lower_case(self.files[number]):
                samples.append(sample)
        except CutOff:
            # `refs` reports it; the samples before it are complete.
            pass
        return samples

    @functools.cached_property
    def _members(self) -> Callable[[int], Mapping[str, set[str]]]:
        """Returns all members of each key of a file, wherever they are in it."""

        @functools.lru_cache(4)
        def members(number: int) -> Mapping[str, set[str]]:
            by_key = collections.defaultdict(set)
            for sample in self._samples(number):
                by_key[sample.key] |= sample.members.keys()
            return by_key

        return members

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_samples", "_members")}

    def read(self, ref: Ref) -> Raw:
        return self._columns(ref)[0]

    def _columns(self, ref: Ref) -> tuple[Raw, list[dict[str, Any]]]:
        """Returns the samples' members by name, and their JSON objects if they have any."""
        samples, paths = self._of(ref)
        raw, infos = Columns(), []
        for key, name in keys_of(samples).items():
            raw[key] = functools.partial(member, name, samples, paths, ref.name)
        for name in sorted({name for sample in samples for name in sample.members if name.rpartition(".")[2] == "json"}):
            if name == "json" or all(name in sample.members for sample in samples):
                objects = [decode_json(*entry) for entry in contents_of(name, samples, paths, ref.name)]
                infos = objects if name == "json" or not infos else infos
                for key in objects[0]:
                    if (values := column([info.get(key) for info in objects])) is not None:
                        raw.setdefault(key, values)
        return raw, infos

    def _of(self, ref: Ref) -> tuple[list[Sample], tuple[str, ...]]:
        """Returns a record's samples and the file of each."""
        samples = [self._samples(number)[row] for number, row in ref.location]
        return samples, tuple(str(self.files[number]) for number, _ in ref.location)

    def _image_refs(self) -> list[Ref]:
        """Lists every sample as a record of its own."""
        refs = []
        for number, path in enumerate(self.files):
            try:
                for row, sample in enumerate(lower_case(path)):
                    refs.append(Ref(f"{path}, {sample.key}", 1, ((number, row),), sample.fault))
            except CutOff as error:
                refs.append(Ref(error.where, 0, (), f"{error.what}; the samples after it cannot be read"))
        return refs

    def card(self) -> SourceCard:
        return self.of_first(self._card_of) or SourceCard(title=self.path.stem)

    def _card_of(self, ref: Ref) -> SourceCard:
        raw, keys = self.read(ref), keys_of(self._of(ref)[0])
        # A key is a whole name if another member has its stem.
        cameras = {
            key.replace(".", "_") if key == name else key: CameraKey(key)
            for key, name in keys.items()
            if name.rpartition(".")[2] in IMAGE_EXTENSIONS
        }

        def part(*names: str) -> tuple[Part, ...]:
            for key in names:
                if isinstance(v := raw.get(key), np.ndarray) and v.dtype.kind == "f":
                    return (Part(key, vector_names(key[:1], v[0].size)),)
            return ()

        return SourceCard(
            title=self.path.stem,
            cameras=cameras,
            action=part("action", "actions"),
            state=part("state", "observation.state", "proprio"),
            instruction=tuple(k for k in WORDS if isinstance(raw.get(k), list)),
            conventions={"source": "read from the files alone: gripper, rotation, frame and rate are not said there"},
            stated={},
        )

    def about(self) -> dict[str, Any]:
        first = next(lower_case(self.files[0]), Sample())
        return {"files": len(self.files), "members of a sample": sorted(first.members)}


class ShardsReader(TarReader):
    """Reader of our own shards, robot episodes or images with questions, and the card next to them."""

    format = "shards"

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.dataset_card = DatasetCard.load(self.path)
        self.kind = self.dataset_card.kind

    def refs(self) -> list[Ref]:
        names = {path.name for path in self.files}
        missing = [name for name in self.dataset_card.shards if name not in names]
        refs = super().refs() if self.kind == "robot" else self._image_refs()
        return refs + [Ref(str(self.path / name), 0, (), "the shard is missing") for name in missing]

    def read(self, ref: Ref) -> Raw:
        raw, infos = self._columns(ref)
        if not infos:
            raise UserError("the samples have no JSON", ref.name, "copy the shard again")
        if self.kind == "questions":
            raw["questions"] = infos[0].get("questions")
            return raw
        further = ("target", "segment", "point", "reach", "actor", "source")
        raw["extra"] = [{name: info[name] for name in further if name in info} for info in infos]
        return raw

    def card(self) -> SourceCard:
        # Members have lower case here, see `lower_case`.
        cameras = {camera.name: CameraKey(camera.name.lower()) for camera in self.dataset_card.spec.cameras}
        return from_card(self.dataset_card, cameras, "action", "state", ("instruction",))

    def about(self) -> dict[str, Any]:
        return {**super().about(), "name": self.dataset_card.name, "kind": self.kind, "counts": self.dataset_card.counts}


class ImageTextReader(TarReader):
    """Reader of images with captions (.txt) or JSON: `conversations`, `questions`, `question` with `answer`, or `caption`."""

    format = "image-text"
    kind = "questions"

    def refs(self) -> list[Ref]:
        return self._image_refs()

    def read(self, ref: Ref) -> Raw:
        ((number, row),) = ref.location
        sample, path = self._samples(number)[row], str(self.files[number])
        image = next((name for name in sample.members if name.rpartition(".")[2] in IMAGE_EXTENSIONS), None)
        if image is None:
            raise self._incomplete("the sample has no image", number, sample, ref.name)
        frames = TarFrames((path,), (sample.members[image],), f"{ref.name}.{image}")
        questions = []
        if "json" in sample.members:
            info = decode_json(fetch(path, sample.members["json"], ref.name), f"{ref.name}.json")
            questions = questions_of(info, ref.name)
        if not questions and "txt" in sample.members:
            text = fetch(path, sample.members["txt"], ref.name).decode("utf-8-sig", "replace").strip()
            questions = [_caption(text)] if text else []
        if not questions:
            raise self._incomplete("the sample has neither a caption nor questions (txt, json)", number, sample, ref.name)
        return {IMAGE: frames, "questions": questions}

    def _incomplete(self, what: str, number: int, sample: Sample, where: str) -> UserError:
        """The error for a sample that lacks a member, with what it has and where the rest may be."""
        described = f"{what}, only {', '.join(sample.members)}"
        if elsewhere := self._members(number)[sample.key] - sample.members.keys():
            apart = f"{described}; {', '.join(sorted(elsewhere))} of the same key are elsewhere in the file"
            return UserError(apart, where, "write the members of a sample one after the other, e.g. with tar --sort=name")
        dots = f"; {KEY}" * any("." in name for name in sample.members)
        return UserError(described + dots, where, "a sample is KEY.jpg with KEY.txt or KEY.json, without dots in KEY")

    def card(self) -> SourceCard:
        return SourceCard(title=self.path.stem, embodiment="pictures", cameras={IMAGE: CameraKey(IMAGE)})


def questions_of(info: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Returns the questions of a JSON object in any of the known forms; [] if it has none."""
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

"""A conversion as it is planned: the records that are chosen, divided into parts, and how large it will be."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from vla.datasets.formats.conventions.prepare import Changes, Dropped, Episode, prepare
from vla.datasets.formats.conventions.source_card import SourceCard, load_source_card
from vla.datasets.formats.pictures import Ready, decode, picture_size
from vla.datasets.formats.readers.base import Raw, Reader, Ref
from vla.datasets.formats.readers.recognise import open_reader
from vla.errors import UserError

PARTS = ".parts"
"""Folder of what is done while a conversion runs."""
PART_BYTES, PART_STEPS = 96 * 2**20, 2000
FILMED = 12
"""So many frames are encoded to see how large a video will be."""
Numbered = list[tuple[int, Ref]]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is converted, and to what: what a user says and the job takes as it is.

    Attributes:
        source: folder or file: RLDS, LeRobot, robomimic or LIBERO HDF5, WebDataset tar, LLaVA or VQAv2 JSON, or our shards.
        out: folder to write.
        format: format of the source: auto, rlds, lerobot, hdf5, shards, webdataset, image-text, llava or vqav2.
        to: format to write.
        card: conventions of the source: a YAML file, or a shipped card, e.g. bridge, fractal, kuka, droid, libero, robomimic; ""
            takes the format's own.
        pictures: folder of the images that a JSON file names.
        split: one of the source's own splits; "" takes all.
        episodes: range FIRST:END of the records, e.g. 0:100, without the end; "" takes all.
        camera: name to give to the camera of images with questions.
        video: codec of LeRobot's videos; "none" writes images.
    """

    source: str
    out: str
    format: str = "auto"
    to: Literal["shards", "lerobot"] = "shards"
    card: str = ""
    pictures: str = ""
    split: str = ""
    episodes: str = ""
    camera: str = "image"
    video: Literal["av1", "h264", "none"] = "av1"


@dataclasses.dataclass(frozen=True)
class Options(Choice):
    """What is converted, and how.

    Attributes:
        part, share: the held-out share of the records, and which part is written: "all", "train" or "val".
        height, width: of the images; 0 keeps theirs.
        changes: done to all episodes.
        skip: whether damaged records are left out, named and counted; else the first one ends it.
        quality: of JPEGs that are written anew.
    """

    part: Literal["all", "train", "val"] = "all"
    share: float = 0.1
    height: int = 0
    width: int = 0
    changes: Changes = Changes()
    skip: bool = False
    quality: int = 95


@dataclasses.dataclass
class Job:
    """A conversion that is set up: all a process needs to write any of its parts.

    Attributes:
        ready: camera -> what its pictures go through.
        parts: the records of each part, with their places among all records.
        expected: bytes that will be written, about.
        not_chosen: option -> records that it leaves to others.
    """

    options: Options
    reader: Reader
    card: SourceCard
    ready: dict[str, Ready]
    parts: list[Numbered]
    expected: int
    not_chosen: dict[str, int]

    @property
    def folder(self) -> Path:
        return Path(self.options.out)

    def episode(self, ref: Ref) -> Episode:
        """A robot record, prepared; UserError or Dropped as `prepare`."""
        return prepare(self.read(ref), self.card, self.options.changes, ref.name)

    def read(self, ref: Ref) -> Raw:
        if ref.damage:
            raise UserError(ref.damage, ref.name)
        return self.reader.read(ref)

    def pictures(self, episode: Episode, ref: Ref) -> Iterator[dict[str, bytes]]:
        """The pictures of each step, as they are written."""
        streams = {}
        for name, (frames, rows) in episode.images.items():
            streams[name] = zip(rows, frames.rows(rows.tolist()), strict=True)
        for _ in range(len(episode)):
            found = {}
            for name, stream in streams.items():
                row, frame = next(stream)
                found[name] = self.ready[name](frame, f"{ref.name}, {self.card.cameras[name].key}, step {row}")
            yield found


def plan(options: Options, reader: Reader | None = None) -> Job:
    """Opens the source, chooses its records, looks at the first whole one and divides them into parts. Writes nothing.

    Args:
        reader: of the source, where it is open already.

    Raises:
        UserError: no such format, card, split or records; no record can be read; without `skip`, any known damage.
    """
    reader = reader or open_reader(options.source, options.format, options.pictures)
    card = load_source_card(options.card) if options.card else reader.card()
    if reader.kind == "questions":
        card = dataclasses.replace(card, cameras={options.camera: next(iter(card.cameras.values()))})
    elif not card.action:
        raise UserError("it is not said which values are the action", options.source, "write a card: --card FILE")
    elif not card.cameras:
        fix = "name its cameras in a card: --card FILE; states of robosuite's demo.hdf5 are rendered: --cameras agentview"
        raise UserError("it has no pictures", options.source, fix)
    refs = list(enumerate(reader.refs()))
    chosen, not_chosen = _choose(refs, reader, options)
    broken = [ref for _, ref in chosen if ref.damage]
    if broken and not options.skip:
        raise UserError(broken[0].damage, broken[0].name, f"{len(broken)} such records; leave them out: --on-error skip")
    job = Job(options, reader, card, {}, [], 0, not_chosen)
    _probe(job, chosen)
    job.parts = _divide(chosen)
    return job


def _choose(refs: Numbered, reader: Reader, options: Options) -> tuple[Numbered, dict[str, int]]:
    """The records that are asked for, and how many each option has left out."""
    before, left = len(refs), {}
    if options.split:
        splits = reader.splits()
        if options.split not in splits:
            raise UserError(f"there is no split {options.split!r}", options.source, f"it has {', '.join(splits) or 'none'}")
        names = splits[options.split]
        refs = [(i, ref) for i, ref in refs if names is None or ref.name in names]
        left["--split"], before = before - len(refs), len(refs)
    if options.episodes:
        first, colon, end = options.episodes.partition(":")
        if not colon or not all(word.isdigit() or not word for word in (first, end)):
            raise UserError(f"episodes {options.episodes!r}", "--episodes", "FIRST:END, e.g. 0:100")
        refs = refs[int(first or 0) : int(end) if end else None]
        left["--episodes"], before = before - len(refs), len(refs)
    if options.part != "all":
        # By the digest of the name: which episodes are held back does not depend on how many there are.
        ranked = sorted(refs, key=lambda entry: hashlib.sha256(_short(entry[1].name).encode()).digest())
        count = max(round(len(refs) * options.share), 1)
        held = {i for i, _ in ranked[:count]}
        refs = [(i, ref) for i, ref in refs if (i in held) == (options.part == "val")]
        left["--holdout"] = before - len(refs)
    if not refs:
        raise UserError("no records are left to convert", options.source, "look at --split, --episodes and --holdout")
    return refs, left


def _short(name: str) -> str:
    """A record's name without the folders, which differ from machine to machine."""
    return name.rpartition("/")[2]


def _probe(job: Job, refs: Numbered) -> None:
    """Sizes of pictures and the expected size of the result, from the first record that can be read."""
    options, problem = job.options, None
    filmed = options.to == "lerobot" and options.video != "none"
    for _, ref in refs[:200]:
        try:
            raw = job.read(ref)
            if job.reader.kind == "robot":
                episode = prepare(raw, job.card, options.changes, ref.name)
                images, steps = episode.images, len(episode)
            else:
                images, steps = {name: (raw[c.key], np.arange(1)) for name, c in job.card.cameras.items()}, 1
            sizes = 0
            for name, (frames, rows) in images.items():
                first = list(frames.rows(rows[: FILMED if filmed else 1].tolist()))
                height, width = picture_size(first[0], ref.name)
                given = options.height or height, options.width or width
                orientation = job.card.cameras[name].orientation
                job.ready[name] = Ready(*given, orientation, bool(options.height), options.quality)
                made = [job.ready[name](frame, ref.name) for frame in first]
                if filmed:
                    from vla.datasets.formats.video import frame_bytes

                    rate = options.changes.rate or job.card.control_hz
                    sizes += frame_bytes([decode(data, ref.name) for data in made], rate, options.video)
                else:
                    sizes += -(-len(made[0]) // 512) * 512 + 512
        except Dropped:
            continue
        except UserError as error:
            if not options.skip:
                raise
            problem = error
            continue
        # In shards three members beside the pictures, a header and a block each.
        beside = 3 * 1024 if options.to == "shards" else 4 * 64
        job.expected = int(steps * (sizes + beside) / max(ref.weight, 1) * sum(max(r.weight, 1) for _, r in refs))
        return
    raise problem or UserError("no record has an instruction and steps", options.source, "give one: --instruction TEXT")


def _divide(refs: Numbered) -> list[Numbered]:
    """Consecutive records in parts of about equal weight; the same for any number of processes."""
    # Weights are bytes where records are large, and steps or pictures where they are not.
    heavy = max(ref.weight for _, ref in refs) > 10 * PART_STEPS
    parts, weight = [[]], 0
    for entry in refs:
        if parts[-1] and weight + entry[1].weight > (PART_BYTES if heavy else PART_STEPS):
            parts.append([])
            weight = 0
        parts[-1].append(entry)
        weight += entry[1].weight
    return parts

"""Sets up a conversion: chooses the records, divides them into parts and estimates the size of the result."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from vla.datasets.formats.conventions.prepare import NO_INSTRUCTION, NO_MOVEMENT, Changes, Dropped, PreparedEpisode, prepare
from vla.datasets.formats.conventions.source_card import SourceCard, load_source_card
from vla.datasets.formats.images import Ready, decode, image_size
from vla.datasets.formats.readers.base import Raw, Reader, Ref
from vla.datasets.formats.readers.frames import contents, named, no_cameras, text_keys
from vla.datasets.formats.readers.recognise import open_reader
from vla.errors import UserError

PARTS = ".parts"
"""Folder of finished parts while a conversion runs."""
PART_BYTES, PART_STEPS = 96 * 2**20, 2000
PROBED = 200
"""Number of records among which the first usable one is looked for."""
PROBE_FRAMES = 12
"""Number of frames that are encoded to estimate the size of videos."""
Numbered = list[tuple[int, Ref]]
"""Records with their numbers among all records of the data set."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The user's choices that a job takes unchanged: the source, the result and their formats.

    Attributes:
        source: folder or file of RLDS, LeRobot, robomimic or LIBERO HDF5, WebDataset tar, LLaVA, VQAv2 or easy-VQA JSON, or our
            shards; or hf://datasets/OWNER/NAME, with @REVISION and /FOLDER if needed.
        out: folder of the result.
        format: format of the source: auto, rlds, lerobot, hdf5, shards, webdataset, image-text, llava, vqav2 or easy-vqa.
        to: format of the result.
        card: conventions of the source: a YAML file (`vla data card` writes one to fill in), or a shipped card, e.g. bridge,
            fractal, kuka, droid, libero, robomimic; "" takes what the data set itself says and assumes the rest.
        images: folder of the images that a JSON file refers to.
        split: one of the source's own splits; "" is all of them.
        episodes: range FIRST:END of the records, e.g. 0:100, END excluded; "" is all.
        camera: name for the camera of images with questions.
        video: codec of LeRobot's videos; none stores images instead.
    """

    source: str
    out: str
    format: str = "auto"
    to: Literal["shards", "lerobot"] = "shards"
    card: str = ""
    images: str = ""
    split: str = ""
    episodes: str = ""
    camera: str = "image"
    video: Literal["av1", "h264", "none"] = "av1"


@dataclasses.dataclass(frozen=True)
class ConvertOptions(Choice):
    """All options of a conversion.

    Attributes:
        part: which part of the records is written: "all", "train", or the held-out "val".
        share: held-out share of the records.
        height, width: size of the images; 0 keeps theirs.
        changes: changes made to all episodes.
        skip: whether damaged records are left out and reported; otherwise the first one is an error.
        quality: JPEG quality of images that are encoded again.
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
    """A conversion that is set up: everything that a process needs to write any of its parts.

    Attributes:
        ready: camera -> the conversion of its images.
        sizes: camera -> height and width of the first image of the source.
        parts: the records of each part.
        expected: estimated size of the result in bytes.
        not_chosen: option -> number of records that it leaves out.
    """

    options: ConvertOptions
    reader: Reader
    card: SourceCard
    ready: dict[str, Ready]
    parts: list[Numbered]
    expected: int
    not_chosen: dict[str, int]
    sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.options.out)

    def episode(self, ref: Ref) -> PreparedEpisode:
        """Reads and prepares an episode; raises UserError or Dropped as `prepare` does."""
        return prepare(self.read(ref), self.card, self.options.changes, ref.name)

    def read(self, ref: Ref) -> Raw:
        """Reads a record as it is stored; UserError if it is damaged."""
        if ref.damage:
            raise UserError(ref.damage, ref.name)
        return self.reader.read(ref)

    def images(self, episode: PreparedEpisode, ref: Ref) -> Iterator[dict[str, bytes]]:
        """Yields each step's JPEGs by camera."""
        streams = {}
        for name, (frames, rows) in episode.images.items():
            streams[name] = zip(rows, frames.rows(rows.tolist()), strict=True)
        for _ in range(len(episode)):
            images = {}
            for name, stream in streams.items():
                row, frame = next(stream)
                images[name] = self.ready[name](frame, f"{ref.name}, {self.card.cameras[name].key}, step {row}")
            yield images


def make_job(options: ConvertOptions, reader: Reader | None = None) -> Job:
    """Opens the source, chooses its records, inspects the first readable one and divides them into parts; writes nothing.

    Args:
        reader: reader of the source, if it is already open.

    Raises:
        UserError: the format, card, split or records do not exist, no record can be read, or (without `skip`) one is damaged.
    """
    reader = reader or open_reader(options.source, options.format, options.images)
    card = load_source_card(options.card) if options.card else reader.card()
    refs = list(enumerate(reader.refs_for(card)))
    if not refs:
        raise UserError("the data set has no records", options.source)
    if all(ref.damage for _, ref in refs):
        others = f"; nor can the other {len(refs) - 1} records be read" if len(refs) > 1 else ""
        raise UserError(refs[0][1].damage + others, refs[0][1].name)
    if reader.kind == "questions":
        card = dataclasses.replace(card, cameras={options.camera: next(iter(card.cameras.values()))})
    else:
        _check_named(card, reader, options)
    chosen, not_chosen = _choose(refs, reader, options)
    broken = [ref for _, ref in chosen if ref.damage]
    if broken and not options.skip:
        fix = f"to leave out damaged records ({len(broken)} in all): --on-error skip" if len(broken) < len(chosen) else ""
        raise UserError(broken[0].damage, broken[0].name, fix)
    job = Job(options, reader, card, {}, [], 0, not_chosen)
    _probe(job, chosen)
    job.parts = _divide(chosen)
    return job


def _check_named(card: SourceCard, reader: Reader, options: ConvertOptions) -> None:
    """Raises UserError if the card has no action or no cameras; says what the first intact record holds instead."""
    if card.action and card.cameras:
        return
    raw = reader.of_first(reader.read) or {}
    by, where = ("the card", options.card) if options.card else ("the data set", options.source)
    if not card.action:
        what = f"{by} does not say which values are the action; there are {named(contents(raw)) or 'none that can be read'}"
        raise UserError(what, where, "write a card with `action`: --card FILE")
    what, fix = no_cameras(raw)
    raise UserError(f"{by} names no cameras: {what}", where, fix)


def _choose(refs: Numbered, reader: Reader, options: ConvertOptions) -> tuple[Numbered, dict[str, int]]:
    """Returns the records that the options choose, and the number that each option leaves out."""
    before, left_out = len(refs), {}
    if options.split:
        splits = reader.splits()
        if options.split not in splits:
            raise UserError(f"there is no split {options.split!r}", options.source, f"splits: {', '.join(splits) or 'none'}")
        names = splits[options.split]
        refs = [(i, ref) for i, ref in refs if names is None or ref.name in names]
        left_out["--split"], before = before - len(refs), len(refs)
    if options.episodes:
        first, colon, end = options.episodes.partition(":")
        if not colon or not all(word.isdigit() or not word for word in (first, end)):
            raise UserError(f"not a range: {options.episodes!r}", "--episodes", "give FIRST:END, e.g. 0:100")
        refs = refs[int(first or 0) : int(end) if end else None]
        left_out["--episodes"], before = before - len(refs), len(refs)
    if options.part != "all":
        # Ranking by a digest of the name makes the choice independent of the order of the records.
        ranked = sorted(refs, key=lambda entry: hashlib.sha256(_short(entry[1].name).encode()).digest())
        count = max(round(len(refs) * options.share), 1)
        held = {i for i, _ in ranked[:count]}
        refs = [(i, ref) for i, ref in refs if (i in held) == (options.part == "val")]
        left_out["--holdout"] = before - len(refs)
    if not refs:
        raise UserError("no records are left to convert", options.source, "look at --split, --episodes and --holdout")
    return refs, left_out


def _short(name: str) -> str:
    """Returns a record's name without its folders, which differ between machines."""
    return name.rpartition("/")[2]


def _probe(job: Job, refs: Numbered) -> None:
    """Sets `job.ready` and `job.expected` from the first record that can be read."""
    options, problem = job.options, None
    as_video = options.to == "lerobot" and options.video != "none"
    reasons = collections.Counter[str]()
    for _, ref in refs[:PROBED]:
        try:
            raw = job.read(ref)
            if job.reader.kind == "robot":
                episode = prepare(raw, job.card, options.changes, ref.name)
                images, steps = episode.images, len(episode)
            else:
                images, steps = {name: (raw[c.key], np.arange(1)) for name, c in job.card.cameras.items()}, 1
            sizes = 0
            for name, (frames, rows) in images.items():
                first = list(frames.rows(rows[: PROBE_FRAMES if as_video else 1].tolist()))
                where = f"{ref.name}, {job.card.cameras[name].key}"
                job.sizes[name] = height, width = image_size(first[0], where)
                size = options.height or height, options.width or width
                orientation = job.card.cameras[name].orientation
                job.ready[name] = Ready(*size, orientation, bool(options.height), options.quality)
                encoded = [job.ready[name](frame, where) for frame in first]
                if as_video:
                    from vla.datasets.formats.video import frame_bytes

                    rate = options.changes.rate or job.card.control_hz
                    sizes += frame_bytes([decode(data, ref.name) for data in encoded], rate, options.video)
                else:
                    sizes += -(-len(encoded[0]) // 512) * 512 + 512
        except Dropped as reason:
            reasons[str(reason)] += 1
            continue
        except UserError as error:
            if not options.skip:
                raise
            problem = error
            continue
        # A sample of a shard has three further members: a header and a block each.
        rest = 3 * 1024 if options.to == "shards" else 4 * 64
        job.expected = int(steps * (sizes + rest) / max(ref.weight, 1) * sum(max(r.weight, 1) for _, r in refs))
        return
    if problem is not None:
        raise problem
    counts = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
    what = f"none of the {'first ' * (len(refs) > PROBED)}{len(refs[:PROBED])} records can be used: {counts}"
    ((reason, _),) = reasons.most_common(1)
    raise UserError(what, options.source, _fix(reason, job))


def _fix(reason: str, job: Job) -> str:
    """What to do if all records are left out."""
    if reason == NO_MOVEMENT:
        return "leave out --noops drop"
    if reason != NO_INSTRUCTION:
        return "look at the card's `steps` and `alignment`"
    if others := [name for name in text_keys(job.reader.fields()) if name not in job.card.instruction]:
        in_card = f"instruction: [{others[0]}]"
        return f"if one of {', '.join(others)} is the instruction, name it in a card: {in_card}; else --instruction TEXT"
    return "give an instruction: --instruction TEXT"


def _divide(refs: Numbered) -> list[Numbered]:
    """Divides the records into parts of consecutive ones, about equal in weight, whatever the number of processes."""
    # Weights are bytes in some formats, and steps or images in others; bytes are far larger numbers.
    in_bytes = max(ref.weight for _, ref in refs) > 10 * PART_STEPS
    parts, weight = [[]], 0
    for entry in refs:
        if parts[-1] and weight + entry[1].weight > (PART_BYTES if in_bytes else PART_STEPS):
            parts.append([])
            weight = 0
        parts[-1].append(entry)
        weight += entry[1].weight
    return parts

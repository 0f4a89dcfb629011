"""From any format to our shards or LeRobot v3.0, by several processes, in parts that are whole or not there."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from vla.datasets.formats.base import Raw, Reader, Ref
from vla.datasets.formats.pictures import Ready, picture_size
from vla.datasets.formats.prepare import Changes, Dropped, Episode, prepare
from vla.datasets.formats.recognise import open_reader
from vla.datasets.formats.source_card import SourceCard, load_source_card
from vla.errors import UserError

PARTS = ".parts"
REPORT = "conversion.json"
PART_BYTES, PART_STEPS = 96 * 2**20, 2000
NAMED = 50
"""So many damaged records are named in a report; all are counted."""
Numbered = list[tuple[int, Ref]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is converted, and how.

    Attributes:
        source: folder or file.
        out: folder to write.
        format: of the source, or "auto".
        to: "shards" or "lerobot".
        card: a YAML file or the name of a shipped one; "" takes what the format says.
        pictures: folder of the pictures that a JSON file names.
        split: of the source's own splits; "" is everything.
        episodes: "FIRST:END" of the records, end excluded; "" is all.
        part, share: the held-out share of the records, and which part is written: "all", "train" or "val".
        height, width: of the pictures; 0 keeps theirs.
        changes: done to all episodes.
        camera: name of the camera of pictures with questions.
        video: codec of LeRobot's videos, "av1" or "h264"; "none" keeps pictures.
        skip: whether damaged records are left out, named and counted; else the first one ends it.
        quality: of JPEGs that are written anew.
    """

    source: str
    out: str
    format: str = "auto"
    to: Literal["shards", "lerobot"] = "shards"
    card: str = ""
    pictures: str = ""
    split: str = ""
    episodes: str = ""
    part: Literal["all", "train", "val"] = "all"
    share: float = 0.1
    height: int = 0
    width: int = 0
    changes: Changes = Changes()
    camera: str = "image"
    video: str = "av1"
    skip: bool = False
    quality: int = 95


@dataclasses.dataclass
class Job:
    """A conversion that is set up: all a process needs to write any of its parts."""

    options: Options
    reader: Reader
    card: SourceCard
    ready: dict[str, Ready]
    parts: list[Numbered]
    expected: int
    """Bytes that are expected to be written."""

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


class Sink(Protocol):
    """A format that is written: parts by any process, the rest by one at the end."""

    def write(self, job: Job, number: int) -> dict[str, Any]:
        """Writes a part; gives its arrays (for the file beside it) and, as "info", plain facts of it."""
        ...

    def finish(self, job: Job, notes: list[Path]) -> dict[str, Any]:
        """Puts the parts together; gives what the report says of the result."""
        ...


def sink(options: Options, kind: str) -> Sink:
    """The writer of what is asked for."""
    if options.to == "lerobot":
        if kind != "robot":
            raise UserError("questions cannot be written as LeRobot", "--to", "--to shards")
        from vla.datasets.formats.lerobot_writer import LeRobotSink

        return LeRobotSink()
    if options.to != "shards":
        raise UserError(f"unknown format {options.to!r}", "--to", "shards or lerobot")
    from vla.datasets.formats.shard_parts import QuestionSink, RobotSink

    return RobotSink() if kind == "robot" else QuestionSink()


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
        raise UserError("it has no pictures", options.source, "robosuite's demo.hdf5 holds states alone: record pictures first")
    refs = list(enumerate(reader.refs()))
    chosen = _choose(refs, reader, options)
    broken = [ref for _, ref in chosen if ref.damage]
    if broken and not options.skip:
        raise UserError(broken[0].damage, broken[0].name, f"{len(broken)} such records; leave them out: --on-error skip")
    job = Job(options, reader, card, {}, [], 0)
    _probe(job, chosen)
    job.parts = _divide(chosen)
    return job


def _choose(refs: Numbered, reader: Reader, options: Options) -> Numbered:
    if options.split:
        splits = reader.splits()
        if options.split not in splits:
            raise UserError(f"there is no split {options.split!r}", options.source, f"it has {', '.join(splits) or 'none'}")
        names = splits[options.split]
        refs = [(i, ref) for i, ref in refs if names is None or ref.name in names]
    if options.episodes:
        first, colon, end = options.episodes.partition(":")
        if not colon or not all(word.isdigit() or not word for word in (first, end)):
            raise UserError(f"episodes {options.episodes!r}", "--episodes", "FIRST:END, e.g. 0:100")
        refs = refs[int(first or 0) : int(end) if end else None]
    if options.part != "all":
        # By the digest of the name: which episodes are held back does not depend on how many there are.
        ranked = sorted(refs, key=lambda entry: hashlib.sha256(_short(entry[1].name).encode()).digest())
        count = max(round(len(refs) * options.share), 1)
        held = {i for i, _ in ranked[:count]}
        refs = [(i, ref) for i, ref in refs if (i in held) == (options.part == "val")]
    if not refs:
        raise UserError("no records are left to convert", options.source, "look at --split, --episodes and --holdout")
    return refs


def _short(name: str) -> str:
    """A record's name without the folders, which differ from machine to machine."""
    return name.rpartition("/")[2]


def _probe(job: Job, refs: Numbered) -> None:
    """Sizes of pictures and the expected size of the result, from the first record that can be read."""
    options, problem = job.options, None
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
                frame = next(iter(frames.rows(rows[:1].tolist())))
                height, width = picture_size(frame, ref.name)
                given = options.height or height, options.width or width
                orientation = job.card.cameras[name].orientation
                job.ready[name] = Ready(*given, orientation, bool(options.height), options.quality)
                sizes += -(-len(job.ready[name](frame, ref.name)) // 512) * 512 + 512
        except Dropped:
            continue
        except UserError as error:
            if not options.skip:
                raise
            problem = error
            continue
        # Three members beside the pictures, a header and a block each.
        job.expected = int(steps * (sizes + 3 * 1024) / max(ref.weight, 1) * sum(max(r.weight, 1) for _, r in refs))
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


def run(job: Job, workers: int = 1, progress: Callable[[int, int], None] = lambda done, all: None) -> dict[str, Any]:
    """Writes all parts that are not there yet, then puts them together; gives the report, also written as conversion.json.

    Raises:
        UserError: a damaged record (without `skip`), another conversion's unfinished parts in the folder, no room on the disk.
    """
    writer = sink(job.options, job.reader.kind)
    parts = job.folder / PARTS
    _claim(job, parts)
    missing = [k for k in range(len(job.parts)) if not _note(parts, k).is_file()]
    done = sum(len(part) for k, part in enumerate(job.parts) if k not in set(missing))
    total = sum(map(len, job.parts))
    progress(done, total)
    for k in _written(job, missing, workers):
        done += len(job.parts[k])
        progress(done, total)
    notes = [_note(parts, k) for k in range(len(job.parts))]
    report = _report(job, notes)
    report |= writer.finish(job, notes)
    (job.folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(parts)
    return report


def _note(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


def _claim(job: Job, parts: Path) -> None:
    """Makes the folder this conversion's; what it has written before stays."""
    records = [[(i, ref.name, ref.weight) for i, ref in part] for part in job.parts]
    body = {**dataclasses.asdict(job.options), "out": "", "records": records, "card": repr(job.card), "ready": repr(job.ready)}
    identity = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    if not parts.is_dir():
        if job.folder.exists() and any(job.folder.iterdir()):
            raise UserError("the folder is not empty", str(job.folder), "choose another, or --overwrite")
        free = shutil.disk_usage(next(p for p in (job.folder.resolve(), *job.folder.resolve().parents) if p.exists())).free
        if job.expected > free:
            raise UserError(f"{job.expected >> 20} MiB are expected, {free >> 20} MiB are free", str(job.folder), "make room")
        parts.mkdir(parents=True)
    said = parts / "identity"
    if not said.is_file():
        _whole(said, identity.encode())
    elif said.read_text() != identity:
        raise UserError("another conversion was begun here", str(job.folder), "finish it with its own command, or --overwrite")


def _written(job: Job, missing: list[int], workers: int) -> Iterator[int]:
    """Writes parts; gives their numbers as they are done."""
    if workers < 2 or len(missing) < 2:
        for k in missing:
            _write_part(job, k)
            yield k
        return
    context = multiprocessing.get_context("spawn")
    slim = dataclasses.replace(job, parts=[])
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(missing)), context, _begin, (slim,)) as pool:
        todo, running = iter(missing), {}
        try:
            while True:
                # A few ahead: the parts are not all pickled at once.
                for k in todo:
                    running[pool.submit(_write_in_worker, k, job.parts[k])] = k
                    if len(running) > workers:
                        break
                if not running:
                    return
                for future in concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done:
                    k = running.pop(future)
                    future.result()
                    yield k
        except BaseException:
            for future in running:
                future.cancel()
            raise


_JOB: Job | None = None


def _begin(job: Job) -> None:
    global _JOB
    _JOB = job


def _write_in_worker(number: int, part: Numbered) -> None:
    assert _JOB is not None
    # The place in the list says which part it is.
    _write_part(dataclasses.replace(_JOB, parts=_Only(number, part)), number)  # type: ignore[arg-type]


class _Only(dict):
    def __init__(self, number: int, part: Numbered):
        super().__init__({number: part})


def _write_part(job: Job, number: int) -> None:
    note = sink(job.options, job.reader.kind).write(job, number)
    note["info"] = np.frombuffer(json.dumps(note["info"]).encode(), np.uint8)
    path = _note(job.folder / PARTS, number)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **note)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _whole(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def info_of(note: Path) -> dict[str, Any]:
    """The plain facts of a part."""
    with np.load(note) as kept:
        return json.loads(kept["info"].tobytes())


def column(notes: list[Path], name: str) -> Callable[[], Iterator[np.ndarray]]:
    """An array of all parts, one part at a time, as often as it is asked for."""

    def chunks() -> Iterator[np.ndarray]:
        for note in notes:
            with np.load(note) as kept:
                yield kept[name]

    return chunks


@dataclasses.dataclass
class Tally:
    """What becomes of a part's records."""

    records: int = 0
    steps: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @contextlib.contextmanager
    def of(self, ref: Ref, skip: bool) -> Iterator[None]:
        """Counts a record that is damaged or left out, and goes on; without `skip` damage ends it."""
        try:
            yield
        except Dropped as reason:
            self.left_out.setdefault(str(reason), []).append(ref.name)
        except UserError as error:
            if not skip:
                raise
            self.errors.append(f"{error.where}: {error.what}")

    def add(self, episode: Episode) -> None:
        self.records += 1
        self.steps += len(episode)
        self.dropped += episode.dropped

    def plain(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "dropped": dict(self.dropped)}


def _report(job: Job, notes: list[Path]) -> dict[str, Any]:
    """Sums up what became of all records."""
    dropped, left_out, errors = collections.Counter[str](), collections.defaultdict(list), []
    counts = collections.Counter[str]()
    for note in notes:
        info = info_of(note)
        counts.update({"records": info["records"], "steps": info["steps"], "errors": len(info["errors"])})
        dropped.update(info["dropped"])
        errors += info["errors"][: NAMED - len(errors)]
        for reason, names in info["left_out"].items():
            counts["left out"] += len(names)
            known = left_out[reason]
            known[:1] = [(known[0] if known else 0) + len(names)]
            known += names[: NAMED + 1 - len(known)]
    options = {k: v for k, v in dataclasses.asdict(job.options).items() if k not in ("source", "out", "pictures")}
    return {
        "source": Path(job.options.source).name,
        "format": job.reader.format,
        "records": {"found": sum(map(len, job.parts)), "written": counts["records"]},
        "steps": counts["steps"],
        "dropped_steps": dict(dropped),
        "left_out": {reason: {"count": names[0], "records": names[1:]} for reason, names in left_out.items()},
        "damaged": {"count": counts["errors"], "records": errors},
        "options": options,
    }

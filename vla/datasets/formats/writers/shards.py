"""Writes our shards: each part of a conversion is one shard."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from vla import hub
from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.prepare import Dropped, PreparedEpisode
from vla.datasets.formats.conventions.rate import merged_limits
from vla.datasets.formats.conventions.source_card import NOT_SAID, Part, SourceCard, contract_orientation
from vla.datasets.formats.job import Job, Numbered
from vla.datasets.formats.notes import Tally, column, info_of
from vla.datasets.formats.readers.base import Ref
from vla.datasets.formats.statistics.moments import summary
from vla.datasets.questions import parse_questions
from vla.datasets.shards import encode_member
from vla.datasets.statistics import VARIES
from vla.datasets.tar import TarWriter
from vla.errors import UserError
from vla.space import Space

_to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


@functools.cache
def _npy_header(size: int) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (size,)})
    return file.getvalue()


def vector(values: np.ndarray) -> bytes:
    """Encodes float32 [N] as NumPy's .npy; caches the header of each shape."""
    return _npy_header(len(values)) + values.tobytes()


@contextlib.contextmanager
def _shard(job: Job, number: int) -> Iterator[tuple[Path, IO[bytes], TarWriter]]:
    """Opens a shard, which gets its name when it is complete; a shard without samples is removed."""
    path = job.folder / f"shard-{number:06d}.tar"
    with path.with_suffix(".tmp").open("wb") as file:
        writer = TarWriter(file)
        yield path, file, writer
        empty = not writer.size
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    if empty:
        path.with_suffix(".tmp").unlink()
    else:
        os.replace(path.with_suffix(".tmp"), path)


@contextlib.contextmanager
def _record(file: IO[bytes], writer: TarWriter) -> Iterator[None]:
    """Removes what was written of a record if it cannot be completed."""
    size = writer.size
    try:
        yield
    except (UserError, Dropped):
        file.seek(size)
        file.truncate()
        writer.size = size
        raise


class RobotSink:
    """Writer of robot episodes: one sample per step."""

    def write(self, job: Job, number: int, part: Numbered) -> dict[str, Any]:
        tally, actions, states, samples = Tally(), [], [], 0
        with _shard(job, number) as (path, file, writer):
            for ordinal, ref in part:
                with tally.counting(ref, job.options.skip), _record(file, writer):
                    episode = job.episode(ref)
                    for key, members in _samples(job, ordinal, ref, episode):
                        writer.write(key, members)
                    actions.append(episode.action)
                    states.append(episode.state)
                    samples += len(episode)
                    tally.add(episode)
        info = {**tally.plain(), **_shard_info(path, samples)}
        width = {name: sum(len(p.names) for p in getattr(job.card, name)) for name in ("action", "state")}
        return {
            "info": info,
            "action": np.concatenate([np.zeros((0, width["action"]), np.float32), *actions]),
            "state": np.concatenate([np.zeros((0, width["state"]), np.float32), *states]),
        }

    def finish(self, job: Job, notes: list[Path]) -> dict[str, Any]:
        infos = [info_of(note) for note in notes]
        if not sum(info["steps"] for info in infos):
            raise UserError("no episode could be written", job.options.source, "see the reasons in conversion.json")
        spec = embodiment(job, {name: summary(column(notes, name)) for name in ("action", "state")})
        card = DatasetCard(
            name=job.card.title or Path(hub.without_revision(job.options.source)).name,
            kind="robot",
            embodiment=job.card.embodiment,
            spec=spec,
            counts={"episodes": sum(i["records"] for i in infos), "steps": sum(i["steps"] for i in infos)},
            shards={i["shard"]: i["samples"] for i in infos if i["samples"]},
            conventions=conventions(job.card),
            generator={"command": "vla data convert", "format": job.reader.format, "source": hub.recorded(job.options.source)},
        )
        card.save(job.folder)
        return {"constant": constants(spec), "sha256": {i["shard"]: i["sha256"] for i in infos if i["samples"]}}


class QuestionSink:
    """Writer of images with questions: one sample per image."""

    def write(self, job: Job, number: int, part: Numbered) -> dict[str, Any]:
        tally, types, samples = Tally(), {}, 0
        with _shard(job, number) as (path, file, writer):
            for ordinal, ref in part:
                with tally.counting(ref, job.options.skip), _record(file, writer):
                    raw = job.read(ref)
                    images = {}
                    for name, camera in job.card.cameras.items():
                        frame = next(iter(raw[camera.key].rows([0])))
                        images[f"{name}.jpg"] = job.ready[name](frame, f"{ref.name}, {camera.key}")
                    questions = encode_member("json", {"questions": raw["questions"]})
                    for question in parse_questions(questions, ref.name):
                        types[question["type"]] = types.get(question["type"], 0) + 1
                    writer.write(f"q{ordinal:08d}", sorted({**images, "json": questions}.items()))
                    samples += 1
                    tally.records += 1
        return {"info": {**tally.plain(), **_shard_info(path, samples), "types": types}}

    def finish(self, job: Job, notes: list[Path]) -> dict[str, Any]:
        infos = [info_of(note) for note in notes]
        types: dict[str, int] = {}
        for info in infos:
            for name, count in info["types"].items():
                types[name] = types.get(name, 0) + count
        no_space = Space((), (), (), ())
        card = DatasetCard(
            name=job.card.title or Path(hub.without_revision(job.options.source)).name,
            kind="questions",
            embodiment=job.card.embodiment,
            spec=Embodiment(_cameras(job), no_space, no_space),
            counts={"pictures": sum(i["records"] for i in infos), "questions": sum(types.values())},
            shards={i["shard"]: i["samples"] for i in infos if i["samples"]},
            questions=types,
            conventions=dict(job.card.conventions),
            generator={"command": "vla data convert", "format": job.reader.format, "source": hub.recorded(job.options.source)},
        )
        card.save(job.folder)
        return {"questions": types, "sha256": {i["shard"]: i["sha256"] for i in infos if i["samples"]}}


def _samples(job: Job, ordinal: int, ref: Ref, episode: PreparedEpisode) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Yields the key and the members of each step's sample."""
    length = len(episode)
    common = {"episode": ordinal, "length": length, "embodiment": job.card.embodiment, "target": ""}
    for step, images in enumerate(job.images(episode, ref)):
        info = {
            **common,
            "step": step,
            "instruction": episode.instruction[step],
            "terminate": int(episode.terminate[step]),
            **episode.extra[step],
        }
        members = {f"{name}.jpg": data for name, data in images.items()}
        members |= {"action.npy": vector(episode.action[step]), "state.npy": vector(episode.state[step])}
        members["json"] = _to_json(info).encode()
        yield f"e{ordinal:06d}_s{step:04d}", sorted(members.items())


def _shard_info(path: Path, samples: int) -> dict[str, Any]:
    return {"shard": path.name, "samples": samples, "sha256": sha256(path) if samples else ""}


def sha256(path: Path) -> str:
    """Returns a file's SHA-256 digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def constants(spec: Embodiment) -> dict[str, float]:
    """Returns the dimensions that never vary: space and name -> value."""
    constants = [
        (f"{name} {n}", c)
        for name, s in (("action", spec.action), ("state", spec.state))
        for n, c in zip(s.names, s.constant, strict=True)
    ]
    return {name: value for name, value in constants if value is not None}


def _cameras(job: Job) -> tuple[Camera, ...]:
    return tuple(Camera(name, r.height, r.width, contract_orientation(r.orientation)) for name, r in job.ready.items())


def conventions(card: SourceCard) -> dict[str, str]:
    """Returns the conventions that a data set's card states for people to read, and what is only assumed."""
    assumed, ours = card.assumed, {"card": card.verified if card.stated is None else "none"}
    if "orientation" not in assumed:
        ours["pictures"] = " and ".join(sorted({contract_orientation(c.orientation) for c in card.cameras.values()})) + " RGB"
    if "alignment" not in assumed:
        ours["observation"] = "before its action"
    if assumed:
        ours |= {NOT_SAID: ", ".join(assumed), "assumed": ", ".join(assumed.values())}
    return {**ours, **card.conventions}


def embodiment(job: Job, statistics: dict[str, dict[str, tuple[float, ...]]]) -> Embodiment:
    """Describes the robot for our card, with limits and constants from the statistics of "action" and "state"."""
    card = job.card
    return Embodiment(
        cameras=_cameras(job),
        state=space(card.state, statistics["state"], card.limits),
        action=space(merged_limits(card, job.options.changes.rate), statistics["action"], card.limits),
        frame=card.frame,
        mode=card.mode,
        rotation=card.rotation,
        gripper=card.gripper,
        control_hz=job.options.changes.rate or card.control_hz,
    )


def space(parts: tuple[Part, ...], statistics: dict[str, tuple[float, ...]], limits: str) -> Space:
    """Makes a space of the parts' dimensions. Limits that the parts do not give come from the statistics."""
    names = tuple(name for part in parts for name in part.names)
    units = tuple(unit for part in parts for unit in part.all_units)
    given = [(part.low, part.high) for part in parts for _ in part.names]
    ends = ("q01", "q99") if limits == "quantiles" else ("min", "max")
    low, high, constant = [], [], []
    for i, (least, most) in enumerate(given):
        a, b = (statistics[end][i] for end in ends)
        smallest, largest = statistics["min"][i], statistics["max"][i]
        if b - a < VARIES:
            # The quantiles are equal; the extremes may still differ.
            a, b = (smallest, largest) if largest - smallest >= VARIES else (a - 1.0, b + 1.0)
        low.append(a if least is None else float(least))
        high.append(b if most is None else float(most))
        if low[-1] >= high[-1]:
            # The card gives one limit only, and all values lie beyond it.
            low[-1], high[-1] = (low[-1], low[-1] + 1.0) if most is None else (high[-1] - 1.0, high[-1])
        constant.append(smallest + 0.0 if largest - smallest < VARIES else None)
    result = Space(names, units, tuple(low), tuple(high), tuple(constant))
    return dataclasses.replace(result, statistics=statistics)

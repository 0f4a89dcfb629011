"""Notes on the parts of a conversion, saved next to each part, and the report that summarizes them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla import hub
from vla.datasets.formats.conventions.prepare import Dropped, PreparedEpisode
from vla.datasets.formats.readers.base import Ref
from vla.errors import UserError

if TYPE_CHECKING:
    from vla.datasets.formats.job import Job

REPORT = "conversion.json"
NAMED = 50
"""A report names at most this many damaged records; it counts all of them."""


def save(path: Path, note: dict[str, Any]) -> None:
    """Writes a part's note atomically: its arrays, and under "info" a JSON object."""
    note["info"] = np.frombuffer(json.dumps(note["info"]).encode(), np.uint8)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **note)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def info_of(note: Path) -> dict[str, Any]:
    """Reads the "info" of a part's note."""
    with np.load(note) as arrays:
        return json.loads(arrays["info"].tobytes())


def column(notes: list[Path], name: str) -> Callable[[], Iterator[np.ndarray]]:
    """Returns a function whose iterator yields the named array of each part; it can be called repeatedly."""

    def chunks() -> Iterator[np.ndarray]:
        for note in notes:
            with np.load(note) as arrays:
                yield arrays[name]

    return chunks


@dataclasses.dataclass
class Tally:
    """Counts of a part's records: written, damaged and left out."""

    records: int = 0
    steps: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @contextlib.contextmanager
    def counting(self, ref: Ref, skip: bool) -> Iterator[None]:
        """Counts a record that is left out or damaged. Without `skip` a damaged one raises its UserError."""
        try:
            yield
        except Dropped as reason:
            self.left_out.setdefault(str(reason), []).append(ref.name)
        except UserError as error:
            if not skip:
                raise
            self.errors.append(f"{error.where}: {error.what}")

    def add(self, episode: PreparedEpisode) -> None:
        """Counts an episode that was written."""
        self.records += 1
        self.steps += len(episode)
        self.dropped += episode.dropped

    def plain(self) -> dict[str, Any]:
        """Returns the counts as a JSON object."""
        return {**dataclasses.asdict(self), "dropped": dict(self.dropped)}


def report(job: Job, notes: list[Path]) -> dict[str, Any]:
    """Builds a conversion's report from its parts' notes."""
    dropped, left_out, errors = collections.Counter[str](), collections.defaultdict(list), []
    counts = collections.Counter[str]()
    for note in notes:
        info = info_of(note)
        counts.update({"records": info["records"], "steps": info["steps"], "errors": len(info["errors"])})
        dropped.update(info["dropped"])
        errors += info["errors"][: NAMED - len(errors)]
        for reason, names in info["left_out"].items():
            counts["left out"] += len(names)
            entry = left_out[reason]  # the count, then names
            entry[:1] = [(entry[0] if entry else 0) + len(names)]
            entry += names[: NAMED + 1 - len(entry)]
    options = {k: v for k, v in dataclasses.asdict(job.options).items() if k not in ("source", "out", "images")}
    return {
        "source": hub.recorded(job.options.source),
        "format": job.reader.format,
        "records": {"found": sum(map(len, job.parts)), "written": counts["records"]},
        "not_chosen": job.not_chosen,
        "steps": counts["steps"],
        "dropped_steps": dict(dropped),
        "left_out": {reason: {"count": names[0], "records": names[1:]} for reason, names in left_out.items()},
        "damaged": {"count": counts["errors"], "records": errors},
        "options": options,
    }

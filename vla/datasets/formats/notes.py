"""What the parts of a conversion note down beside themselves, and the report that is made of it."""

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

from vla.datasets.formats.conventions.prepare import Dropped, Episode
from vla.datasets.formats.readers.base import Ref
from vla.errors import UserError

if TYPE_CHECKING:
    from vla.datasets.formats.job import Job

REPORT = "conversion.json"
NAMED = 50
"""So many damaged records are named in a report; all are counted."""


def save(path: Path, note: dict[str, Any]) -> None:
    """Writes a part's arrays and its "info", plain facts: whole or not at all."""
    note["info"] = np.frombuffer(json.dumps(note["info"]).encode(), np.uint8)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **note)
        file.flush()
        os.fsync(file.fileno())
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


def report(job: Job, notes: list[Path]) -> dict[str, Any]:
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
        "not_chosen": job.not_chosen,
        "steps": counts["steps"],
        "dropped_steps": dict(dropped),
        "left_out": {reason: {"count": names[0], "records": names[1:]} for reason, names in left_out.items()},
        "damaged": {"count": counts["errors"], "records": errors},
        "options": options,
    }

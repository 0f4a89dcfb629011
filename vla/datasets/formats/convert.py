"""From any format to our shards or LeRobot v3.0, by several processes, in parts that are whole or not there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from vla.datasets.formats import notes
from vla.datasets.formats.job import PARTS, Job, Numbered, Options
from vla.datasets.formats.notes import REPORT
from vla.datasets.formats.workers import pool
from vla.errors import UserError


class Sink(Protocol):
    """A format that is written: parts by any process, the rest by one at the end."""

    def write(self, job: Job, number: int, part: Numbered) -> dict[str, Any]:
        """Writes a part, under its number; gives its arrays (for the file beside it) and, as "info", plain facts of it."""
        ...

    def finish(self, job: Job, notes: list[Path]) -> dict[str, Any]:
        """Puts the parts together; gives what the report says of the result."""
        ...


def sink(options: Options, kind: str) -> Sink:
    """The writer of what is asked for."""
    if options.to == "lerobot":
        if kind != "robot":
            raise UserError("questions cannot be written as LeRobot", "--to", "--to shards")
        from vla.datasets.formats.writers.lerobot import LeRobotSink

        return LeRobotSink()
    if options.to != "shards":
        raise UserError(f"unknown format {options.to!r}", "--to", "shards or lerobot")
    from vla.datasets.formats.writers.shards import QuestionSink, RobotSink

    return RobotSink() if kind == "robot" else QuestionSink()


def run(job: Job, workers: int = 1, progress: Callable[[int, int], None] = lambda done, all: None) -> dict[str, Any]:
    """Writes all parts that are not there yet, then puts them together; gives the report, also written as conversion.json.

    A conversion that was finished before is left as it is, and gives its report.

    Raises:
        UserError: a damaged record (without `skip`), another conversion's unfinished parts in the folder, another process that
            writes there, no room on the disk, or it cannot be written: then the same command goes on.
    """
    writer, total = sink(job.options, job.reader.kind), sum(map(len, job.parts))
    identity = _identity(job)
    if (report := _finished(job, identity)) is not None:
        progress(total, total)
        return report
    with _claimed(job, identity) as parts, _writing(job.folder):
        missing = [k for k in range(len(job.parts)) if not _note(parts, k).is_file()]
        done = total - sum(len(job.parts[k]) for k in missing)
        progress(done, total)
        for k in _written(job, missing, workers):
            done += len(job.parts[k])
            progress(done, total)
        written = [_note(parts, k) for k in range(len(job.parts))]
        report = notes.report(job, written) | writer.finish(job, written) | {"identity": identity}
        _whole(job.folder / REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
        shutil.rmtree(parts)
    return report


def _identity(job: Job) -> str:
    """A digest of all that makes the result what it is, and of where it comes from."""
    records = [[(i, ref.name, ref.weight) for i, ref in part] for part in job.parts]
    body = {**dataclasses.asdict(job.options), "out": "", "records": records, "card": repr(job.card), "ready": repr(job.ready)}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _finished(job: Job, identity: str) -> dict[str, Any] | None:
    """The report of this conversion, if it is all there."""
    try:
        report = json.loads((job.folder / REPORT).read_bytes())
        whole = report["identity"] == identity and all((job.folder / name).is_file() for name in report["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole:
        return None
    # It was stopped while it was clearing up.
    shutil.rmtree(job.folder / PARTS, ignore_errors=True)
    return report


def _note(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


@contextlib.contextmanager
def _claimed(job: Job, identity: str) -> Iterator[Path]:
    """The folder of the parts: this conversion's, and no other process's; what it has written before stays."""
    parts = job.folder / PARTS
    if not parts.is_dir():
        if job.folder.exists() and any(job.folder.iterdir()):
            raise UserError("the folder is not empty", str(job.folder), "choose another, or --overwrite")
        free = shutil.disk_usage(next(p for p in (job.folder.resolve(), *job.folder.resolve().parents) if p.exists())).free
        if job.expected > free:
            raise UserError(f"{job.expected >> 20} MiB are expected, {free >> 20} MiB are free", str(job.folder), "make room")
        parts.mkdir(parents=True)
    lock, said = FileLock(parts / "lock"), parts / "identity"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another process is converting into this folder", str(job.folder), "wait for it, or end it") from None
    try:
        if not said.is_file():
            # What an earlier conversion was clearing up when it was stopped.
            for old in parts.glob("*.npz"):
                old.unlink()
            _whole(said, identity.encode())
        elif said.read_text() != identity:
            raise UserError(
                "another conversion was begun here", str(job.folder), "finish it with its own command, or --overwrite"
            )
        yield parts
    finally:
        lock.release()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the operating system says of a full disk or a lost mount, in the words of all other errors."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or folder)
        raise UserError(
            f"it cannot be read or written: {error.strerror or error}", where, "mend that, then give the same command"
        ) from error


def _written(job: Job, missing: list[int], workers: int) -> Iterator[int]:
    """Writes parts; gives their numbers as they are done."""
    if workers < 2 or len(missing) < 2:
        for k in missing:
            _write_part(job, k, job.parts[k])
            yield k
        return
    slim = dataclasses.replace(job, parts=[])
    with pool(min(workers, len(missing)), _begin, slim) as processes:
        todo, running = iter(missing), {}
        try:
            while True:
                # A few ahead: the parts are not all pickled at once.
                for k in todo:
                    running[processes.submit(_write_in_worker, k, job.parts[k])] = k
                    if len(running) > workers:
                        break
                if not running:
                    return
                for future in concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done:
                    k = running.pop(future)
                    future.result()
                    yield k
        except concurrent.futures.BrokenExecutor as error:
            fix = "perhaps memory was short: go on with fewer --workers"
            raise UserError("a process that writes was killed", str(job.folder), fix) from error
        finally:
            for future in running:
                future.cancel()


_JOB: Job | None = None


def _begin(job: Job) -> None:
    global _JOB
    _JOB = job


def _write_in_worker(number: int, part: Numbered) -> None:
    assert _JOB is not None
    _write_part(_JOB, number, part)


def _write_part(job: Job, number: int, part: Numbered) -> None:
    notes.save(_note(job.folder / PARTS, number), sink(job.options, job.reader.kind).write(job, number, part))


def _whole(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)

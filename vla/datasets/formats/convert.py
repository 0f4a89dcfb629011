"""Converts a data set to our shards or LeRobot v3.0 with several processes; a conversion that was stopped can resume."""

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
from vla.datasets.formats.job import PARTS, ConvertOptions, Job, Numbered
from vla.datasets.formats.notes import REPORT
from vla.datasets.formats.workers import pool
from vla.errors import UserError


class Sink(Protocol):
    """Writer of a format: any process writes parts, and one process puts them together at the end."""

    def write(self, job: Job, number: int, part: Numbered) -> dict[str, Any]:
        """Writes part `number`; returns its note: arrays, and under "info" a JSON object."""
        ...

    def finish(self, job: Job, notes: list[Path]) -> dict[str, Any]:
        """Puts the parts together; returns entries for the report."""
        ...


def sink(options: ConvertOptions, kind: str) -> Sink:
    """Returns the writer for the options and the kind of the data set; UserError if there is none."""
    if options.to == "lerobot":
        if kind != "robot":
            raise UserError("questions cannot be written as LeRobot", "--to", "--to shards")
        from vla.datasets.formats.writers.lerobot import LeRobotSink

        return LeRobotSink()
    if options.to != "shards":
        raise UserError(f"unknown format {options.to!r}", "--to", "shards or lerobot")
    from vla.datasets.formats.writers.shards import QuestionSink, RobotSink

    return RobotSink() if kind == "robot" else QuestionSink()


def run(job: Job, workers: int = 1, progress: Callable[[int, int], None] = lambda converted, total: None) -> dict[str, Any]:
    """Writes the missing parts, puts all parts together, and returns the report, which it also saves as conversion.json.

    If this conversion is already complete, it changes nothing and returns the saved report.

    Raises:
        UserError: a record is damaged (without `skip`); the folder holds another conversion, or another process is writing
            there; or a file cannot be read or written. Running the same command again resumes.
    """
    writer, total = sink(job.options, job.reader.kind), sum(map(len, job.parts))
    identity = _identity(job)
    if (report := _finished(job, identity)) is not None:
        progress(total, total)
        return report
    with _claim(job, identity) as parts, _as_user_errors(job.folder):
        missing = [k for k in range(len(job.parts)) if not _note(parts, k).is_file()]
        converted = total - sum(len(job.parts[k]) for k in missing)
        progress(converted, total)
        for k in _write_parts(job, missing, workers):
            converted += len(job.parts[k])
            progress(converted, total)
        written = [_note(parts, k) for k in range(len(job.parts))]
        report = notes.report(job, written) | writer.finish(job, written) | {"identity": identity}
        _write_atomically(job.folder / REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
        shutil.rmtree(parts)
    return report


def _identity(job: Job) -> str:
    """Returns a digest of everything that determines the result: records, options, card and image conversion."""
    records = [[(i, ref.name, ref.weight) for i, ref in part] for part in job.parts]
    content = {**dataclasses.asdict(job.options), "out": "", "records": records, "card": repr(job.card), "ready": repr(job.ready)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finished(job: Job, identity: str) -> dict[str, Any] | None:
    """Returns this conversion's report if it is complete, else None."""
    try:
        report = json.loads((job.folder / REPORT).read_bytes())
        complete = report["identity"] == identity and all((job.folder / name).is_file() for name in report["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not complete:
        return None
    # An earlier run may have been stopped before it removed the parts.
    shutil.rmtree(job.folder / PARTS, ignore_errors=True)
    return report


def _note(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


@contextlib.contextmanager
def _claim(job: Job, identity: str) -> Iterator[Path]:
    """Locks the folder of the parts for this process and yields it; parts of an earlier run of this conversion stay."""
    parts = job.folder / PARTS
    if not parts.is_dir():
        if job.folder.exists() and any(job.folder.iterdir()):
            raise UserError("the folder is not empty", str(job.folder), "choose another, or --overwrite")
        free = shutil.disk_usage(next(p for p in (job.folder.resolve(), *job.folder.resolve().parents) if p.exists())).free
        if job.expected > free:
            need = f"the result needs about {job.expected >> 20} MiB, only {free >> 20} MiB are free"
            raise UserError(need, str(job.folder), "free some space")
        parts.mkdir(parents=True)
    lock, identity_file = FileLock(parts / "lock"), parts / "identity"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            "another process is converting into this folder", str(job.folder), "wait until it ends, or stop it"
        ) from None
    try:
        if not identity_file.is_file():
            # An earlier conversion was stopped while it removed its parts.
            for old in parts.glob("*.npz"):
                old.unlink()
            _write_atomically(identity_file, identity.encode())
        elif identity_file.read_text() != identity:
            raise UserError(
                "another conversion was begun here", str(job.folder), "finish it with its own command, or --overwrite"
            )
        yield parts
    finally:
        lock.release()


@contextlib.contextmanager
def _as_user_errors(folder: Path) -> Iterator[None]:
    """Turns the operating system's errors, such as a full disk, into UserErrors."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or folder)
        raise UserError(
            f"cannot be read or written: {error.strerror or error}", where, "fix that, then run the same command again"
        ) from error


def _write_parts(job: Job, missing: list[int], workers: int) -> Iterator[int]:
    """Writes the missing parts; yields each part's number when it is complete."""
    if workers < 2 or len(missing) < 2:
        for k in missing:
            _write_part(job, k, job.parts[k])
            yield k
        return
    without_parts = dataclasses.replace(job, parts=[])
    with pool(min(workers, len(missing)), _set_job, without_parts) as processes:
        waiting, running = iter(missing), {}
        try:
            while True:
                # Only a few parts are submitted ahead, so that not all are pickled at once.
                for k in waiting:
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
            fix = "if memory ran out, run the same command with fewer --workers"
            raise UserError("a worker process was killed", str(job.folder), fix) from error
        finally:
            for future in running:
                future.cancel()


_JOB: Job | None = None


def _set_job(job: Job) -> None:
    global _JOB
    _JOB = job


def _write_in_worker(number: int, part: Numbered) -> None:
    assert _JOB is not None
    _write_part(_JOB, number, part)


def _write_part(job: Job, number: int, part: Numbered) -> None:
    notes.save(_note(job.folder / PARTS, number), sink(job.options, job.reader.kind).write(job, number, part))


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)

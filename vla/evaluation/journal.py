"""episodes.jsonl: every finished episode at once, a line each, so that a killed evaluation goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.report.records import EpisodeRecord, parse_episode

EPISODES, IDENTITY = "episodes.jsonl", "evaluation.json"


class Journal:
    """The finished episodes of one evaluation, in its folder; a context manager that holds the folder against a second process.

    A line is there whole or counts as not there: half a line at the end is what a killed process leaves.

    Args:
        folder: of the evaluation; made where there is none.
        identity: what makes it this evaluation and no other (suite, policy, contract …), as JSON.
        fresh: start over, whatever the folder holds.

    Attributes:
        episodes: what is finished, in the order in which it was.

    Raises:
        UserError: the folder holds another evaluation (what differs is named), another process writes there, or a line
            cannot be read.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], fresh: bool = False):
        self.folder, self.identity, self.fresh = Path(folder), dict(identity), fresh
        self.episodes: list[EpisodeRecord] = []

    def __enter__(self) -> Journal:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not "w": another process may be writing it. Closed by __exit__.
        self._file = open(self.folder / EPISODES, "ab")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    "another process evaluates into this folder", str(self.folder), "wait, or choose another"
                ) from None
            self._open()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, episode: EpisodeRecord) -> None:
        """Adds a finished episode."""
        self._file.write((json.dumps(episode.to_dict(), allow_nan=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.episodes.append(episode)

    def _open(self) -> None:
        path, known = self.folder / EPISODES, self.folder / IDENTITY
        if self.fresh:
            self._file.truncate(0)
        elif known.is_file():
            self._same(json.loads(known.read_text(encoding="utf-8")))
        elif path.stat().st_size:
            raise UserError(
                f"the folder has {EPISODES} of something else", str(self.folder), "add --fresh to replace it, or choose another"
            )
        unfinished = known.with_name(f".{known.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self.identity, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(known)
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                content = json.loads(line)
            except ValueError as error:
                raise UserError(f"line {number} is not JSON: {error}", str(path), "add --fresh to start over") from None
            self.episodes.append(parse_episode(content, str(path), f"line {number}"))

    def _same(self, other: Mapping[str, Any]) -> None:
        for key in {**self.identity, **other}:
            mine, theirs = self.identity.get(key), other.get(key)
            if mine != theirs:
                raise UserError(
                    f"the folder holds an evaluation with another {key.replace('_', ' ')}: {theirs}, not {mine}",
                    str(self.folder),
                    "add --fresh to start over, or choose another --out",
                )

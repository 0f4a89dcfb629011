"""episodes.jsonl: a line for each finished episode, written at once, so that a killed evaluation can resume."""

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
    """The finished episodes of one evaluation; a context manager that locks the evaluation's folder.

    An incomplete last line, which a killed process leaves, is dropped.

    Args:
        folder: folder of the evaluation; created if it does not exist.
        identity: what the results depend on (suite, policy, contract …), as JSON.
        fresh: whether to start over, whatever the folder holds.

    Attributes:
        episodes: the finished episodes, in the order in which they finished.

    Raises:
        UserError: the folder holds another evaluation (the error names the difference), another process writes there, or a line
            cannot be read.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], fresh: bool = False):
        self.folder, self.identity, self.fresh = Path(folder), dict(identity), fresh
        self.episodes: list[EpisodeRecord] = []

    def __enter__(self) -> Journal:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not "w", which would empty a file that another process writes. __exit__ closes it.
        self._file = open(self.folder / EPISODES, "ab")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    "another process is evaluating into this folder", str(self.folder), "wait, or choose another folder"
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
            self._check_identity(json.loads(known.read_text(encoding="utf-8")))
        elif path.stat().st_size:
            raise UserError(
                f"the folder has an {EPISODES} without {IDENTITY}",
                str(self.folder),
                "add --fresh to replace it, or choose another folder",
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

    def _check_identity(self, other: Mapping[str, Any]) -> None:
        # Of a local policy the weights say which it is, wherever its folder has been moved to.
        moved = {"policy"} if self.identity.get("weights") and self.identity["weights"] == other.get("weights") else set()
        for key in {**self.identity, **other}:
            mine, theirs = self.identity.get(key), other.get(key)
            if mine != theirs and key not in moved:
                raise UserError(
                    f"the folder holds an evaluation with another {key.replace('_', ' ')}: {theirs}, not {mine}",
                    str(self.folder),
                    "add --fresh to start over, or choose another --out",
                )

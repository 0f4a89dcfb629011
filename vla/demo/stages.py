"""Runs work in stages, each once: a repeated run resumes after the last finished stage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.report.provenance import Memory, commit

STAGES = "stages.json"
FORMAT = 2
"""Version of the file's format: stages of another version may have other results."""


class Stages:
    """The finished stages of a run with their results, time, memory and commit, saved in stages.json.

    Args:
        folder: folder of the run.
        identity: everything that the results depend on, as JSON; it names no folder, so that a run may be moved.
        memory: measures the memory of each stage.

    Attributes:
        changed: whether the folder holds another run.
        done: the results of each finished stage by name.
        now: names of the stages that this process ran.
        begun: names of all stages that were started.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], memory: Memory):
        self.path, self.identity, self.memory = folder / STAGES, identity, memory
        try:
            saved = json.loads(self.path.read_text()) if self.path.is_file() else {}
        except ValueError as error:
            raise UserError(f"not JSON: {error}", str(self.path), "add --fresh to start over") from error
        ours = (saved.get("format"), saved.get("identity")) == (FORMAT, identity)
        self.changed = bool(saved) and not ours
        self.done: dict[str, Any] = saved.get("done", {}) if ours else {}
        self.now: list[str] = []
        self.begun: list[str] = saved.get("begun", []) if ours else []

    def run(self, name: str, text: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Runs a stage unless it is done, and returns its results.

        Args:
            text: what the stage does, for the terminal.
            work: does the work and returns its results as JSON, with a summary under "said".
        """
        if name in self.done:
            print(f"[{name}] already done: {self.done[name]['said']}", flush=True)
            return self.done[name]
        print(f"[{name}] {text}", flush=True)
        interrupted = name in self.begun
        self.begun = sorted({*self.begun, name})
        self._save()
        self.memory.take()
        began = time.perf_counter()
        results = work()
        seconds = round(time.perf_counter() - began, 1)
        peak = round(self.memory.take(), 1)
        costs = {"seconds": seconds, "peak_pss_mib": peak, "interrupted": interrupted, "commit": commit()}
        results = {"said": "", **results, **costs}
        self.now.append(name)
        self.done[name] = results
        self._save()
        print(f"[{name}] {results['said']} ({seconds:.0f} s)", flush=True)
        return results

    def _save(self) -> None:
        unfinished = self.path.with_suffix(".tmp")
        content = {"format": FORMAT, "identity": self.identity, "begun": self.begun, "done": self.done}
        unfinished.write_text(json.dumps(content, indent=1))
        unfinished.replace(self.path)

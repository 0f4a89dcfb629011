"""Work in stages that are done once: a repeated run goes on from the last whole one."""

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
"""Of what is kept there: what another version's stages found may be something else."""


class Stages:
    """Which stages are done, with what they found, took and needed, and by which commit's code.

    It is kept in stages.json, so that a repeated run goes on.

    Args:
        folder: of the run.
        identity: what makes it this run and no other, as JSON; it names no folder, for a run that was moved is the same.
        memory: measures each stage.

    Attributes:
        changed: whether the folder holds another run.
        done: by name, what each stage found.
        now: which of them this process did.
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
        """Does a stage unless it is done; what it returns must be JSON."""
        if name in self.done:
            print(f"[{name}] done before: {self.done[name]['said']}", flush=True)
            return self.done[name]
        print(f"[{name}] {text}", flush=True)
        again = name in self.begun
        self.begun = sorted({*self.begun, name})
        self._save()
        self.memory.take()
        began = time.perf_counter()
        found = work()
        seconds = round(time.perf_counter() - began, 1)
        said = {"seconds": seconds, "peak_pss_mib": round(self.memory.take(), 1), "interrupted": again, "commit": commit()}
        found = {"said": "", **found, **said}
        self.now.append(name)
        self.done[name] = found
        self._save()
        print(f"[{name}] {found['said']} ({seconds:.0f} s)", flush=True)
        return found

    def _save(self) -> None:
        unfinished = self.path.with_suffix(".tmp")
        kept = {"format": FORMAT, "identity": self.identity, "begun": self.begun, "done": self.done}
        unfinished.write_text(json.dumps(kept, indent=1))
        unfinished.replace(self.path)

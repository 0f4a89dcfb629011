"""What of the data could not be read: named once, counted over all ranks, said at the end."""

from __future__ import annotations

import sys
from typing import Any

import torch

NAMED = 10
"""So many samples of a source are named one by one."""


class LeftOut:
    """Samples that could not be read: source -> where -> why.

    Args:
        sources: their names.
    """

    def __init__(self, sources: list[str]):
        self.found: dict[str, dict[str, str]] = {name: {} for name in sources}

    def note(self, source: str, where: str, why: str, instead: str) -> None:
        """Counts a sample, and names it on standard error if it is new."""
        found = self.found[source]
        if where not in found:
            found[where] = why
            if len(found) <= NAMED:
                more = f" (of {source}, further ones are only counted)" if len(found) == NAMED else ""
                print(f"{where}: {why}; {instead}{more}", file=sys.stderr, flush=True)

    def share(self, ranks: int) -> None:
        """Each rank learns what the others could not read; all of them call it."""
        if ranks > 1:
            every: list[Any] = [None] * ranks
            torch.distributed.all_gather_object(every, self.found)
            for found in every:
                self.add(found)

    def add(self, found: dict[str, dict[str, str]]) -> None:
        """What was found elsewhere, or before an interruption."""
        for source, several in found.items():
            self.found[source] |= several

    def report(self) -> None:
        """Says on standard error what was left out."""
        for source, found in self.found.items():
            if found:
                where, why = next(iter(found.items()))
                print(f"{source}: {len(found)} samples could not be read, the first of them {where}: {why}", file=sys.stderr)

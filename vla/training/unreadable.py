"""Samples that cannot be read: named once, counted over all ranks, reported at the end."""

from __future__ import annotations

import sys

import torch

NAMED = 10
"""The number of samples of a source that are named one by one."""

Records = dict[str, dict[str, str]]
"""Source -> where -> why."""


class LeftOut:
    """The samples that could not be read.

    Args:
        sources: their names.

    Attributes:
        records: what could not be read.
    """

    def __init__(self, sources: list[str]):
        self.records: Records = {name: {} for name in sources}

    def note(self, source: str, where: str, why: str, instead: str) -> None:
        """Counts a sample, and names it on standard error if it is new.

        Args:
            instead: what happens instead, for the message.
        """
        records = self.records[source]
        if where not in records:
            records[where] = why
            if len(records) <= NAMED:
                more = f" (of {source}, further ones are only counted)" if len(records) == NAMED else ""
                print(f"{where}: {why}; {instead}{more}", file=sys.stderr, flush=True)

    def share(self, ranks: int) -> None:
        """Gives every rank the records of all. All ranks must call it together."""
        if ranks > 1:
            gathered: list[Records] = [{}] * ranks
            torch.distributed.all_gather_object(gathered, self.records)
            for records in gathered:
                self.add(records)

    def add(self, records: Records) -> None:
        """Adds the records of another rank, or of the time before an interruption."""
        for source, several in records.items():
            self.records[source] |= several

    def report(self) -> None:
        """Prints on standard error what was left out."""
        for source, records in self.records.items():
            if records:
                where, why = next(iter(records.items()))
                print(f"{source}: {len(records)} samples could not be read, the first of them {where}: {why}", file=sys.stderr)

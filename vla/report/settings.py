"""How the policies of a comparison were evaluated: in what they differ, and what is the same for all."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from vla.report.offline import OfflineRecord
from vla.report.records import Record

NAMES = ("policy", "protocol", "weights", "contract", "execute", "decode", "batch", "scenes", "horizon", "commit", "hardware")
"""Keys of a record, or of its `run`, that a comparison shows."""
OWN = ("policy", "weights", "contract", "decode")
"""Those that are the policy's own, as all settings of its contract are. The others are conditions of its evaluation."""
UNKNOWN = "not recorded"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of several evaluations as text.

    Attributes:
        differ: setting -> a value for each policy, in their order.
        same: setting -> the value of all; of the contract's own, only `decode`.
        conditions: those of `differ` that are not the policies' own.
    """

    differ: dict[str, list[str]]
    same: dict[str, str]
    conditions: list[str]

    @classmethod
    def of(cls, records: Sequence[Record] | Sequence[OfflineRecord]) -> Settings:
        """Compares the settings of records; one that none of them has is left out."""
        every = [_settings(record) for record in records]
        names = [*NAMES, *dict.fromkeys(name for one in every for name in one if name not in NAMES)]
        values = {n: [one.get(n, UNKNOWN) for one in every] for n in names if any(n in one for one in every)}
        differ = {name: each for name, each in values.items() if len(set(each)) > 1}
        shown = {*NAMES, *itertools.chain(*(_flat(record).get("versions", ()) for record in records))}
        same = {name: each[0] for name, each in values.items() if name in shown and name not in differ}
        return cls(differ, same, [name for name in differ if name in shown and name not in OWN])

    def sentence(self) -> str:
        """Returns the conditions that differ in one sentence; "" if none do."""
        return f"The evaluations differ in {', '.join(self.conditions)}: see the settings." if self.conditions else ""

    def rows(self) -> list[list[str]]:
        """Returns the rows of a table of the differing settings; hashes are shortened."""
        return [[name, *map(_short, values)] for name, values in self.differ.items()]

    def facts(self) -> dict[str, str]:
        """Returns what is the same for all, as one line with its title; hashes are shortened."""
        line = ", ".join(f"{name} {_short(value)}" for name, value in self.same.items())
        return {"The same for all": line} if line else {}


def other_execute(record: Record | OfflineRecord) -> str:
    """Returns how a record was made with another `execute` than the contract says; "" if it was not."""
    data = _flat(record)
    own, execute = data.get("contract_settings", {}).get("execute"), data.get("execute")
    if own is not None:
        return "" if execute == own else f"{execute} actions were executed of each chunk, its contract says {own}"
    # Earlier versions wrote the option, which was 0 if not given; offline records always had the number.
    given = execute and isinstance(record, Record) and "scenes" not in data
    return f"--execute {execute} was given, and the record does not have the contract's" if given else ""


def _flat(record: Record | OfflineRecord) -> dict[str, Any]:
    return {**vars(record), **record.more, **record.more.get("run", {})}


def _settings(record: Record | OfflineRecord) -> dict[str, str]:
    data = _flat(record)
    contract = {key: value for key, value in data.get("contract_settings", {}).items() if key not in data}
    if not contract and data.get("execute") == 0:
        data["execute"] = "the contract's"
    chosen = {name: data[name] for name in NAMES if name in data}
    return {name: _text(value) for name, value in {**chosen, **contract, **data.get("versions", {})}.items()}


def _text(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    return value if isinstance(value, str) else json.dumps(value).strip("[]").replace('"', "")


def _short(value: str) -> str:
    """Shortens the hashes in a text."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1", value)

"""Proof that robot data lack words, shapes, colours and looks on which a policy is to be tested."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.card import FILE
from vla.datasets.robot import RobotSource
from vla.datasets.shards import decode_json
from vla.errors import UserError

Value = str | tuple[float, ...]
"""A word or phrase, or numbers (e.g. a colour's red, green and blue), that data must not have."""


@dataclasses.dataclass(frozen=True)
class Offence:
    """A held-out value in a data set.

    Attributes:
        where: file and record.
        value: what was found.
        text: where in it: an instruction, an answer, an entry of the card.
    """

    where: str
    value: Value
    text: str


def held_out_words(folder: str | Path, values: Iterable[Value]) -> list[Offence]:
    """Every occurrence of held-out values in robot data: in its card, and in what each record says (instruction, target, plan,
    questions, variation and all else in its `json`).

    Words are compared whole, without regard to case; numbers within 1e-6.

    Raises:
        UserError: the folder holds no robot data, or a record cannot be read.
    """
    source, values = RobotSource(folder), list(values)
    words = {value: f" {_plain(value)} " for value in values if isinstance(value, str)}
    numbers = [value for value in values if not isinstance(value, str)]
    card = dataclasses.asdict(source.card)
    # Units, limits and statistics of the robot are not of its scenes.
    said = [(f"{folder}/{FILE}", {name: card[name] for name in ("name", "questions", "conventions", "wordings", "generator")})]
    records = ((source.index.where(i, "json"), source.index.read(i, ("json",))["json"]) for i in range(len(source.index)))
    found = []
    for where, content in itertools.chain(said, ((where, decode_json(data, where)) for where, data in records)):
        for part in _parts(content):
            if isinstance(part, str):
                text = f" {_plain(part)} "
                found += [Offence(where, word, part) for word, own in words.items() if own in text]
            else:
                alike = [v for v in numbers if len(v) == len(part) and np.allclose(part, v, rtol=0, atol=1e-6)]
                found += [Offence(where, value, str(part)) for value in alike]
    return found


def check_held_out(folder: str | Path, values: Iterable[Value]) -> int:
    """Returns the number of records, none of which has a held-out value.

    Raises:
        UserError: one has; the first is named. Or see `held_out_words`.
    """
    found = held_out_words(folder, values)
    if found:
        first = found[0]
        others = f" ({len(found)} occurrences in all)" if len(found) > 1 else ""
        raise UserError(
            f"{first.value!r} is held out, but the data have it: {first.text!r}{others}", first.where, "collect data without it"
        )
    return len(RobotSource(folder).index)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _parts(value: Any) -> Iterator[str | list[float]]:
    """The texts and lists of numbers in a parsed JSON or YAML value, names of entries included."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield str(key)
            yield from _parts(entry)
    elif isinstance(value, list | tuple):
        if value and all(isinstance(one, int | float) for one in value):
            yield list(value)
        else:
            for one in value:
                yield from _parts(one)
    elif isinstance(value, str):
        yield value

"""Checks the names in a card against those that a data set has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vla.datasets.formats.conventions.prepare import values_of
from vla.datasets.formats.conventions.source_card import Part, SourceCard, load_source_card, shipped
from vla.datasets.formats.readers.base import Field
from vla.errors import UserError

KINDS = ("images", "numbers", "texts")


def mismatches(card: SourceCard, fields: Mapping[str, Field]) -> list[str]:
    """Everything that a card names and the data do not have, or have in another form; `existing` lists what there is."""
    return [*_cameras(card, fields), *_spaces(card, fields), *_instruction(card, fields)]


def existing(fields: Mapping[str, Field]) -> list[str]:
    """The names that there are, one line for images, numbers (with the number of values) and texts each."""
    names = {kind: [n + f" ({f.width})" * bool(f.width) for n, f in fields.items() if f.kind == kind] for kind in KINDS}
    return [f"{kind}: {', '.join(names[kind]) or 'none'}" for kind in KINDS]


def fitting(fields: Mapping[str, Field]) -> list[str]:
    """The shipped cards all of whose names the data have."""
    return [name for name in shipped() if not mismatches(load_source_card(name), fields)]


def _cameras(card: SourceCard, fields: Mapping[str, Field]) -> Iterator[str]:
    for name, camera in card.cameras.items():
        field = fields.get(camera.key)
        if field is None or field.kind != "images":
            yield f"camera {name}: {_instead(camera.key, field)}"


def _spaces(card: SourceCard, fields: Mapping[str, Field]) -> Iterator[str]:
    for space in ("state", "action"):
        for part in getattr(card, space):
            where, field = f"{space} {', '.join(part.names)}", fields.get(part.key)
            if part.key and (field is None or field.kind != "numbers"):
                yield f"{where}: {_instead(part.key, field)}"
            elif part.key and field and field.width and (problem := _misfit(part, field)):
                yield f"{where}: {part.key}: {problem}"


def _misfit(part: Part, field: Field) -> str:
    """Why the picks or names of a part do not fit the width of its values; "" if they do."""
    try:
        values_of({part.key: np.ones((2, field.width))}, part, "")
    except UserError as error:
        return error.what
    return ""


def _instruction(card: SourceCard, fields: Mapping[str, Field]) -> Iterator[str]:
    for key in card.instruction:
        field = fields.get(key)
        # Integers may be the characters of a text.
        if field is None or not (field.kind == "texts" or "int" in field.dtype):
            yield f"instruction: {_instead(key, field)}"


def _instead(key: str, field: Field | None) -> str:
    return f"there is no {key}" if field is None else f"{key} holds {'no such values' if field.kind == 'other' else field.kind}"

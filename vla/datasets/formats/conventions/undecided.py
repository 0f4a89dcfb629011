"""What a card leaves to its reader to decide: `vla data card` writes DECIDE there, and the card is refused until it is gone."""

from __future__ import annotations

import re

from vla.errors import UserError

DECIDE = "DECIDE"
"""Stands for a value that the data do not tell. It is refused: a wrong convention would be trained on without a word."""
_LINE = re.compile(rf"(\w+):\s*{DECIDE}\s*(?:[,}}\]][^#]*)?(?:#\s*(.*))?$")


def undecided(text: str) -> dict[int, tuple[str, str]]:
    """The lines of a card that are to be decided: number -> the value's name and its choices, which the comment there has."""
    lines = enumerate(text.splitlines(), 1)
    matches = {number: _LINE.search(line) for number, line in lines if not line.lstrip().startswith("#")}
    return {number: (match[1], (match[2] or "").strip()) for number, match in matches.items() if match}


def check_decided(text: str, where: str) -> None:
    """Raises UserError at the first line of a card that is to be decided; names the others."""
    if not (lines := undecided(text)):
        return
    (first, (name, choices)), *others = lines.items()
    also = f"; so are {len(others)} more: lines {', '.join(str(number) for number, _ in others)}" if others else ""
    fix = f"in place of {DECIDE}: {choices or 'a value'}"
    raise UserError(f"{name} is still to be decided{also}", f"{where}, line {first}", fix)

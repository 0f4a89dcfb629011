"""What jsonargparse says about a wrong argument, in one line."""

from __future__ import annotations

import re

NO_NEWS = (
    "Does not validate against any of the Union subtypes",
    "Subtypes: ",
    "Errors:",
    "Given value type: ",
    "Expected a <class 'NoneType'>",
)
"""Beginnings of lines that say nothing to a user."""
PLAIN = (
    (r'^Parser key "(.*)":', r"\1:"),
    (r"^Problem with given class_path '(.*)':", r"\1:"),
    (r"^Given value: NestedArg\(key='(.*)', val='?(.*?)'?\)$", r"given \1=\2"),
    (r"^Given value: ", "given "),
    (r"^Expected a ", "expected "),
    (r"\. Got value: (.*)$", r", got \1"),
    (r"typing\.Literal\[(.*)\]", r"one of \1"),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
)
"""jsonargparse's phrases, and ours."""


def in_one_line(text: str) -> str:
    """Returns a parser's error in one line: the key, what is wrong, and the value.

    For a value that may have several types, the text lists what each of them has against it. Where a class was named, the others
    do not matter.
    """
    reasons: list[tuple[str, bool]] = []
    named, skip = -1, False
    for raw in text.strip().splitlines():
        indent, line = len(raw) - len(raw.lstrip()), raw.strip()
        of_a_type, line = line.startswith("- "), line.removeprefix("- ")
        if of_a_type and indent <= named:
            skip = True
        elif of_a_type and line.startswith("Problem with given class_path") and named < 0:
            named, reasons = indent, [entry for entry in reasons if not entry[1]]
        elif line.startswith("Given value: "):
            skip = named >= 0
        if skip or line.startswith(NO_NEWS) or "does not correspond to a subclass" in line or "either not accessible" in line:
            continue
        for pattern, plain in PLAIN:
            line = re.sub(pattern, plain, line)
        if (line, of_a_type) not in reasons:
            reasons.append((line, of_a_type))
    return re.sub(r":; ", ": ", "; ".join(line for line, _ in reasons))

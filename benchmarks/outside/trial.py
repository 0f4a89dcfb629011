"""A case, and what its function runs commands and states expectations with."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from outside import command

NEVER = (r"Traceback \(most recent", r"\bat 0x[0-9a-f]{6,}")
"""What no output of a command may hold: a traceback, a memory address."""
LIMIT = 60
"""Seconds that a command may take."""
CASES: list[Case] = []
"""All cases, in the order in which they were defined."""


class Differs(Exception):
    """Something is not as expected; the message says what came instead."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A function that makes an input, runs commands on it and checks what they do; its docstring is what is expected.

    Attributes:
        area: name of the file.
        seen: where the report was seen, e.g. huggingface/lerobot#2401; "" if only here.
    """

    area: str
    name: str
    expected: str
    seen: str
    run: Callable[[Trial], None]


def case(seen: str = "") -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Registers a function as a case."""

    def register(function: Callable[[Trial], None]) -> Callable[[Trial], None]:
        area, name = function.__module__.rpartition(".")[2], function.__name__.replace("_", " ")
        CASES.append(Case(area, name, (function.__doc__ or "").strip(), seen, function))
        return function

    return register


@dataclasses.dataclass
class Trial:
    """A run of a case in a folder of its own."""

    folder: Path

    def vla(
        self,
        *arguments: str | Path,
        code: int | Iterable[int] = 0,
        says: str | Iterable[str] = (),
        never: str | Iterable[str] = (),
        limit: float = LIMIT,
        file_limit: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Runs `vla ARGUMENTS` in the folder and returns its output.

        Args:
            code: exit code, or any of several.
            says: regular expressions that the output must match, in any case.
            never: regular expressions that it must not match, beside NEVER.
            limit: seconds.
            file_limit: most bytes that a file may have, as on a full disk; 0 is no limit.
            environment: further variables.
        """
        argv = [str(argument) for argument in arguments]
        got, output = command.run(argv, self.folder, limit, file_limit, environment)
        line = f"`vla {' '.join(argv)}`"
        if got is None:
            raise Differs(f"{line} was still running after {limit:g} s: {last(output)}")
        wrong = [pattern for pattern in (*NEVER, *listed(never)) if re.search(pattern, output, re.I)]
        if wrong:
            raise Differs(f"{line} exits with {got} and says {matched(wrong[0], output)!r}: {last(output)}")
        codes = (code,) if isinstance(code, int) else tuple(code)
        if got not in codes:
            raise Differs(f"{line} exits with {got}, not {' or '.join(map(str, codes))}: {last(output)}")
        for pattern in listed(says):
            if not re.search(pattern, output, re.I | re.S):
                raise Differs(f"{line} does not say {pattern!r}: {last(output)}")
        return output

    def equal(self, what: str, got: Any, wanted: Any) -> None:
        """Checks that a value is the wanted one."""
        if got != wanted:
            raise Differs(f"{what}: {short(got)}, not {short(wanted)}")

    def near(self, what: str, got: Any, wanted: Any, within: float) -> None:
        """Checks that numbers have the wanted shape and values."""
        got, wanted = np.asarray(got, float), np.asarray(wanted, float)
        if got.shape != wanted.shape or not (np.abs(got - wanted) <= within).all():
            raise Differs(f"{what}: {short(got.round(3).tolist())}, not {short(wanted.round(3).tolist())}")

    def true(self, what: str, holds: Any) -> None:
        """Checks that something holds; `what` says what is wrong if it does not."""
        if not holds:
            raise Differs(what)


def listed(patterns: str | Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def matched(pattern: str, output: str) -> str:
    match = re.search(pattern, output, re.I)
    return match[0] if match else ""


def short(value: Any, most: int = 160) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def last(output: str, most: int = 300) -> str:
    """The end of an output in one line, without progress bars."""
    lines = [
        line.strip() for line in re.split(r"[\r\n]+", output) if line.strip() and "/s]" not in line and "?record" not in line
    ]
    text = " | ".join(lines)
    return text if len(text) <= most else "…" + text[1 - most :]

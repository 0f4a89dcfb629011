"""Prompt templates: a question with named fields, filled in for every observation."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Collection, Mapping

from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """A task's question to the model, e.g. "Would a {target} be found here? Why or why not?" (PR2L, Chen et al. 2024).

    The text goes to the model as it stands: what a model expects around a question ("Q: … A:") is part of it. What fills a field
    is never read as a template.

    Args:
        text: with fields {name}; "" is no prompt at all; {{ and }} are braces.

    Raises:
        UserError: it is no template, or a field has no plain name.
    """

    text: str

    def __post_init__(self) -> None:
        wrong = next((name for name in self.fields if not name.isidentifier()), None)
        if wrong is not None:
            raise UserError(f"the field {{{wrong}}} has no plain name", self._where, "write e.g. {object}")

    @property
    def fields(self) -> tuple[str, ...]:
        """Names in the order of the text, each once."""
        return tuple(dict.fromkeys(name for _, name in self._parts() if name is not None))

    def check(self, known: Collection[str]) -> None:
        """Raises UserError where a field is not among those that an environment fills."""
        unknown = [name for name in self.fields if name not in known]
        if unknown:
            fix = f"use {', '.join(f'{{{name}}}' for name in sorted(known))}" if known else "leave it out: there are no fields"
            raise UserError(f"unknown field {{{unknown[0]}}}", self._where, fix)

    def fill(self, fields: Mapping[str, str]) -> str:
        """The question; UserError where a field is missing."""
        self.check(fields.keys())
        return "".join(text + (fields[name] if name is not None else "") for text, name in self._parts())

    @property
    def _where(self) -> str:
        return f"prompt {self.text!r}"

    def _parts(self) -> list[tuple[str, str | None]]:
        try:
            return [(text, name) for text, name, _, _ in string.Formatter().parse(self.text)]
        except ValueError as error:
            raise UserError(f"not a template: {error}", self._where, "a brace of the text itself is written twice") from error

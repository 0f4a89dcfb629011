"""Prompt templates: questions with named fields that are filled in for every observation."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Collection, Mapping

from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """A task's question to the model, e.g. "Would a {target} be found here? Why or why not?" (PR2L, Chen et al. 2024).

    The text goes to the model unchanged, so it includes what a model expects around a question ("Q: … A:"). Values of fields are
    never read as templates.

    Args:
        text: text with fields {name}; {{ and }} are braces; "" is an empty prompt.

    Raises:
        UserError: the text is not a template, or a field's name is not an identifier.
    """

    text: str

    def __post_init__(self) -> None:
        invalid = next((name for name in self.fields if not name.isidentifier()), None)
        if invalid is not None:
            raise UserError(f"the field {{{invalid}}} has no plain name", self._where, "write e.g. {object}")

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields in the order of the text, each once."""
        return tuple(dict.fromkeys(name for _, name in self._parts() if name is not None))

    def check(self, known: Collection[str]) -> None:
        """Raises UserError if a field is not among the known ones, those that an environment fills."""
        unknown = [name for name in self.fields if name not in known]
        if unknown:
            fix = f"use {', '.join(f'{{{name}}}' for name in sorted(known))}" if known else "remove it: no fields are filled here"
            raise UserError(f"unknown field {{{unknown[0]}}}", self._where, fix)

    def fill(self, fields: Mapping[str, str]) -> str:
        """Returns the prompt with its fields filled in. Raises UserError if a field is missing."""
        self.check(fields.keys())
        return "".join(text + (fields[name] if name is not None else "") for text, name in self._parts())

    @property
    def _where(self) -> str:
        return f"prompt {self.text!r}"

    def _parts(self) -> list[tuple[str, str | None]]:
        """Returns pieces of text, each with the name of the field after it."""
        try:
            return [(text, name) for text, name, _, _ in string.Formatter().parse(self.text)]
        except ValueError as error:
            raise UserError(f"not a template: {error}", self._where, "write a literal brace twice") from error

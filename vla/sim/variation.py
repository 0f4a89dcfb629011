"""How an episode differs from the training data. A simulator subclasses `Variation` with the fields that it can change."""

from __future__ import annotations

import dataclasses

Json = str | int | float | bool | None | tuple["Json", ...] | list["Json"] | dict[str, "Json"]


@dataclasses.dataclass(frozen=True)
class Variation:
    """A named variation. This one changes nothing; a subclass has a field, with a default, for each thing that it can change.

    Attributes:
        name: in the suite.
    """

    name: str = "seen"

    def to_dict(self) -> dict[str, Json]:
        """Its name and all that differs from training: what a suite's hash is made of."""
        plain = dataclasses.asdict(type(self)())
        return {key: value for key, value in dataclasses.asdict(self).items() if key == "name" or value != plain[key]}

    @property
    def changes(self) -> list[str]:
        """The names of the fields that differ from training."""
        return [key for key in self.to_dict() if key != "name"]


SEEN = Variation()

"""What an evaluation on LIBERO may choose: the protocol, and how images are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

from vla.errors import UserError
from vla.sim.libero.protocols import DEFAULT, PROTOCOLS, Protocol, find_protocol
from vla.sim.variation import Json, Variation

Drawing = Literal["exact", "fast"]
"""How images are drawn: "exact", pixel for pixel as LIBERO draws them, or "fast", without reflections and multisampling."""


@dataclasses.dataclass(frozen=True)
class LiberoVariation(Variation):
    """How the episodes of a suite are run.

    Attributes:
        protocol: one of `PROTOCOLS`.
        rendering: see `Drawing`.
    """

    protocol: str = DEFAULT
    rendering: Drawing = "exact"

    @property
    def rules(self) -> Protocol:
        """The protocol itself."""
        return PROTOCOLS[self.protocol]

    def to_dict(self) -> dict[str, Json]:
        """As `Variation`, always with the protocol's hash: an evaluation by a protocol that has changed is another one."""
        return {**super().to_dict(), "protocol": self.protocol, "protocol_hash": self.rules.hash}

    @classmethod
    def of(cls, variation: Variation) -> LiberoVariation:
        """A variation as one of LIBERO's; one that says nothing has the defaults."""
        return variation if isinstance(variation, cls) else cls(variation.name)


def read_variation(name: str, settings: Json, where: str) -> LiberoVariation:
    """A variation from what a suite's YAML holds under its name.

    Raises:
        UserError: an unknown field or value; it is named.
    """
    if settings is not None and not isinstance(settings, dict):
        raise UserError(f"variation {name!r} is {settings!r}, expected names and values", where, "e.g. {protocol: openvla}")
    return changed(LiberoVariation(name), settings or {}, f"{where}: variation {name!r}")


def changed(variation: LiberoVariation, settings: Mapping[str, Json], where: str) -> LiberoVariation:
    """The variation with other settings. Raises UserError for an unknown one, or an unknown value."""
    for key, value in settings.items():
        if key == "protocol":
            find_protocol(str(value), where)
        elif key == "rendering":
            if value not in get_args(Drawing):
                raise UserError(f"unknown rendering {value!r}", where, f"one of {', '.join(get_args(Drawing))}")
        else:
            raise UserError(f"unknown field {key!r}", where, "known are protocol, rendering")
    return dataclasses.replace(variation, **settings)

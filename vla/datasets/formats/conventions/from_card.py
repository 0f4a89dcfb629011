"""Converts our own card to a source card, so that data we wrote keep their names, units, limits and conventions."""

from __future__ import annotations

import re

from vla.contract import Space
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.forms import NAME
from vla.datasets.formats.conventions.source_card import CameraKey, Part, Role, SourceCard


def from_card(
    card: DatasetCard, cameras: dict[str, CameraKey], action: str, state: str, instruction: tuple[str, ...]
) -> SourceCard:
    """The source card of data that has the spaces of our card under the given keys."""
    spec = card.spec
    return SourceCard(
        title=card.name,
        verified=card.conventions.get("card", "our own data"),
        embodiment=card.embodiment,
        # In the order in which a policy gets the images.
        cameras={c.name: cameras[c.name] for c in spec.cameras if c.name in cameras},
        action=_parts(action, spec.action),
        state=_parts(state, spec.state),
        instruction=instruction,
        frame=spec.frame,
        mode=spec.mode,
        rotation=spec.rotation,
        gripper=spec.gripper,
        control_hz=spec.control_hz,
        conventions=card.conventions,
    )


def _parts(key: str, space: Space) -> tuple[Part, ...]:
    """One part per dimension, each with its own limits."""
    return tuple(
        Part(key, (name,), (space.units[i],), (i,), role=role_of(name), low=space.low[i], high=space.high[i])
        for i, name in enumerate(space.names)
    )


def role_of(name: str) -> Role:
    """The role of a dimension, guessed from its name."""
    if "grip" in name or "gap" in name:
        return "gripper"
    if re.fullmatch(r"[dv]?[xyz]", name):
        return "position"
    return "rotation" if NAME.fullmatch(name) else "other"

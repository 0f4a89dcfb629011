"""Converts our own card to a source card, so that data we wrote keep their names, units, limits and conventions."""

from __future__ import annotations

import re

from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.forms import NAME
from vla.datasets.formats.conventions.source_card import NOT_SAID, CameraKey, Part, Role, SourceCard
from vla.space import Space


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
        conventions={name: text for name, text in card.conventions.items() if name != NOT_SAID},
        stated=_stated(card.conventions.get(NOT_SAID)),
    )


def _stated(not_said: object) -> dict[str, str] | None:
    """What the card says, for `SourceCard.stated`, if it names what it does not say."""
    names = ("orientation", "mode", "alignment", "control_hz")
    # A card edited by hand may hold something else than a text.
    return None if not_said is None else {name: "card.yaml" for name in names if name not in str(not_said).split(", ")}


def _parts(key: str, space: Space) -> tuple[Part, ...]:
    """One part per dimension, each with its own limits."""
    return tuple(
        Part(key, (name,), (space.units[i],), (i,), role=role_of(name), low=space.low[i], high=space.high[i])
        for i, name in enumerate(space.names)
    )


def role_of(name: str) -> Role:
    """The role of a dimension, guessed from its name."""
    if re.search("grip|gap|jaw|claw|finger", name):
        return "gripper"
    if re.search(r"joint|\.pos$|shoulder|elbow|wrist|waist", name):
        return "joint"
    if re.fullmatch(r"[dv]?[xyz]", name):
        return "position"
    return "rotation" if NAME.fullmatch(name) else "other"

"""Whether a policy, or data, and a simulator mean the same by actions and observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from vla.contract import Camera, Embodiment
from vla.errors import ContractMismatch

LARGEST = 480
"""Edge in pixels of the largest image that a simulator draws in a size that a policy wants."""


def check_conventions(name: str, simulated: Embodiment, other: Embodiment, where: str) -> None:
    """Compares the simulator's description of an embodiment with the policy's.

    Raises:
        ContractMismatch: they differ in what actions or observations mean; both values are named.
    """
    for field, ours, theirs in _conventions(simulated, other):
        if ours != theirs:
            raise ContractMismatch(f"{field} is {theirs} for the policy and {ours} for {name}", where, "it would act wrongly")


def adapted(simulated: Embodiment, other: Embodiment) -> Embodiment:
    """The simulated embodiment with the sizes and orientations of the other's cameras, of a simulator that can show them.

    Cameras of other names, and images that are not square, are left for `check_conventions` to refuse.
    """
    theirs = {camera.name: camera for camera in other.cameras}

    def shown(camera: Camera) -> Camera:
        wanted = theirs.get(camera.name, camera)
        return wanted if wanted.height == wanted.width <= LARGEST else camera

    return dataclasses.replace(simulated, cameras=tuple(map(shown, simulated.cameras)))


def _conventions(ours: Embodiment, theirs: Embodiment) -> Iterator[tuple[str, object, object]]:
    """What must be alike for actions and observations to mean the same."""
    for name in ("cameras", "control_hz", "frame", "mode", "rotation", "gripper"):
        yield name, getattr(ours, name), getattr(theirs, name)
    for space in ("state", "action"):
        for name in ("names", "units"):
            yield f"{name} of {space}", getattr(getattr(ours, space), name), getattr(getattr(theirs, space), name)

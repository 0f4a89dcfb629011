"""Questions on a step of a demonstration: where an object is, what is held, which way an object is from the gripper.

They have the words of demonstrations alone. Answers are from the state at that step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.sim.tabletop.questions import WORDINGS as IMAGES
from vla.sim.tabletop.questions import seen

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop

WORDINGS = {
    "where": IMAGES["where"],
    "held": ("what is held", "what does the gripper hold", "which object is held"),
    "way": ("which way is the {name} from the gripper", "which way from the gripper is the {name}"),
}
WAYS = (("back", "forward"), ("left", "right"), ("down", "up"))
"""The two ways along x (forward is away from the robot), y (as the front camera sees it) and z."""
FAR, CLEARLY = 0.03, 1.25
"""Least distance (m) along the answer's axis, and its least ratio to that along either other axis."""


def ask_step(table: Tabletop, rng: np.random.Generator) -> list[dict]:
    """Questions about the present state, one of each type that has an answer; as `vla.sim.tabletop.questions.draw_image`."""
    scene, (shown, point, inside) = table.scene, seen(table)
    questions = []

    def say(kind: str, answer: str | list, **words: str) -> None:
        questions.append({"type": kind, "question": str(rng.choice(WORDINGS[kind])).format(**words), "answer": answer})

    if inside:
        i = inside[rng.integers(len(inside))]
        say("where", [[round(c, 4) for c in point[i]]], name=scene[i].name)
    held = [o.name for i, o in enumerate(scene) if table.grasped(i)]
    say("held", held[0] if held else "nothing")
    # A way is drawn before an object: the gripper is mostly above them, and "down" would be most answers.
    ways: dict[str, list[int]] = {}
    for i in shown:
        if answer := way(table.position(i) - table.state()[:3]):
            ways.setdefault(answer, []).append(i)
    if ways:
        answer = str(rng.choice(sorted(ways)))
        say("way", answer, name=scene[rng.choice(ways[answer])].name)
    return questions


def way(offset: np.ndarray) -> str:
    """The way along which an offset (m; x, y, z) mostly goes; "" if none stands out."""
    *_, second, axis = np.argsort(np.abs(offset)).tolist()
    if abs(offset[axis]) < max(FAR, CLEARLY * abs(offset[second])):
        return ""
    return WAYS[axis][int(offset[axis] > 0)]

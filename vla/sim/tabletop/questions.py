"""Questions about images: scenes are drawn, and the simulator's state gives the answers.

The nouns are those of the instructions (`vla.sim.tabletop.wide_questions` has others). Answers are balanced within each type,
and the wording does not give them away. Questions are about objects whose centre the front camera sees. The types *list* (all
objects) and *reach* (an object's offset from the gripper) are for training, not for testing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from vla.sim.tabletop.embodiment import TABLE_HEIGHT
from vla.sim.tabletop.experts.grasp import lift_action, turn
from vla.sim.tabletop.scene import (
    COLOURS,
    FLAT,
    REACH_X,
    REACH_Y,
    RECEPTACLES,
    SHAPES,
    SLOTS,
    SPACING,
    Scene,
    arrange,
    sample_scene,
)
from vla.sim.tabletop.tasks.lift import Lift
from vla.sim.tabletop.words import NUMBERS, SYMBOLS

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop

TYPES = ("where", "colour", "shape", "count", "relation", "holding", "list", "reach")
TURN = 0.55
"""Largest yaw (rad) of an object in a question: more than tasks have, and less than an eighth of a turn, where the yaw of a cube
becomes ambiguous."""
REACH = 0.2
"""Largest distance (m) along each axis in an answer of type *reach*."""
NUMERATE = ("number", "as many")
"""Optional types: an object's number from the left, and numbers by their symbols."""
COUNTS = ("zero", "one", "two", "three", "four")
WORDINGS = {
    "where": ("where is the {name}", "point at the {name}", "locate the {name}", "where can you see the {name}"),
    "colour": ("what colour is the {shape}", "which colour has the {shape}", "tell the colour of the {shape}"),
    "shape": ("what shape is the {colour} object", "which shape has the {colour} object", "what is the {colour} object"),
    "count": ("how many objects are there", "how many objects are on the table", "count the objects"),
    "relation": ("is the {a} {side} of the {b}", "is the {a} to the {side} of the {b}"),
    "list": ("what is on the table", "list the objects", "name the objects from left to right"),
    "reach": ("where is the {name} from the gripper", "locate the {name} from the gripper"),
    "number": ("what is number {number} from the left", "which object is number {number} from the left"),
    "as many": ("are there as many objects as {symbol}", "are the objects as many as {symbol}"),
    "holding": ("is the gripper holding anything", "does the gripper hold an object", "is anything held"),
}


@dataclasses.dataclass(frozen=True)
class Pose:
    """The robot at one moment.

    Attributes:
        joints: of arm and fingers [9].
        height: of the gripper, or of the underside of what it holds (m).
        held: pose [7] of the object that it holds, if any; `shape` and `size` are the object's.
    """

    joints: np.ndarray
    height: float
    held: np.ndarray | None = None
    shape: str = ""
    size: str = ""


Draw = Callable[[np.random.Generator, int], Scene]
"""Draws a scene of so many objects."""


def draw_scene(rng: np.random.Generator, count: int) -> Scene:
    """A scene of training's objects; in most a colour alone tells an object."""
    return sample_scene(rng, count, distinct_colours=bool(rng.random() < 0.7), turn=TURN)


def draw_every_shape(rng: np.random.Generator, count: int) -> Scene:
    """A scene with flat objects and, if there are several, mostly a receptacle, as every task needs them; colours differ."""
    shapes = [str(shape) for shape in rng.choice([*SHAPES, *FLAT], count)]
    if count > 1 and rng.random() < 0.75:
        shapes[-1] = str(rng.choice(list(RECEPTACLES)))
    return arrange(rng, [(str(c), shape) for c, shape in zip(rng.permutation(list(COLOURS)), shapes, strict=False)], TURN)


def collect_poses(table: Tabletop, rng: np.random.Generator, episodes: int = 24, draw: Draw | None = None) -> list[Pose]:
    """Robot poses from the expert lifting an object, and from random motion over an empty table.

    The random poses show the gripper at any height and angle, open and closed: poses that only a policy's mistakes lead to.

    Args:
        draw: what draws the object to lift; by default it is one of training's.
    """
    poses = []
    for _ in range(episodes):
        table.reset(draw(rng, 1) if draw else sample_scene(rng, 1, turn=TURN), rng)
        for _ in range(36):
            action = lift_action(table, 0)
            action[:3] += rng.normal(0, 0.015, 3)
            action[5] += rng.normal(0, 0.08)
            table.step(action)
            # The image must show whether the object is held: poses that merely touch it are left out.
            if not table.touched(0):
                poses.append(Pose(table.joints(), table.state()[2]))
            elif table.grasped(0) and table.lift(0) > 0.02:
                item = table.scene[0]
                poses.append(Pose(table.joints(), table.lift(0), table.object_qpos(0).copy(), item.shape, item.size))
        table.reset((), rng)
        for step in range(36):
            if step % 6 == 0:
                goal = rng.uniform((-0.2, -0.25, 0, -0.6), (0.2, 0.25, 1, 0.6))
                goal[2] = 0.01 + 0.19 * goal[2] ** 2
                grip = float(rng.choice([-1.0, 1.0]))
            offset = goal - table.state()[:4]
            table.step(np.concatenate([offset[:3], (0, 0), offset[3:], [grip]]))
            poses.append(Pose(table.joints(), table.state()[2]))
    return poses


def draw_image(
    table: Tabletop,
    poses: list[Pose],
    rng: np.random.Generator,
    objects: int = 0,
    numbers: bool = False,
    draw: Draw = draw_scene,
) -> list[dict]:
    """Sets up a new scene around one of the poses, without simulating it, and returns questions about it.

    The robot touches nothing but the object that it holds. In most scenes one object is near the gripper.

    Args:
        objects: number of objects; 0 draws one to four.
        numbers: whether to add the types of NUMERATE; the other questions are the same with and without.
        draw: draws the scene.

    Returns:
        [{"type", "question", "answer"}]: the answer is a word, or a list of words, integers and points [u, v] (each 0 to 1).
        Render the table for the image.
    """
    held = place_scene(table, poses, rng, draw, objects)
    questions = ask(table, rng, held)
    return questions + (ask_numbers(table, rng) if numbers else [])


def place_scene(table: Tabletop, poses: list[Pose], rng: np.random.Generator, draw: Draw, objects: int = 0) -> bool:
    """Sets up a new scene around one of the poses; see `draw_image`. Returns whether the robot holds the first object."""
    holding = bool(rng.random() < 0.35)
    # A few episodes may have no pose of this kind; then any pose is used.
    fitting = [p for p in poses if (p.held is not None) == holding] or poses
    pose = fitting[rng.integers(len(fitting))]
    hand = table.set_joints(pose.joints)[:2]
    count = objects or int(rng.integers(1, SLOTS + 1))
    while True:
        first, *others = draw(rng, count)
        if pose.held is not None:
            first = dataclasses.replace(first, shape=pose.shape, size=pose.size, x=pose.held[0], y=pose.held[1])
        elif rng.random() < 0.6:
            low, high = zip(REACH_X, REACH_Y, strict=True)
            x, y = np.clip(hand + rng.normal(0, 0.03, 2), low, high)
            first = dataclasses.replace(first, x=x, y=y)
        if any(o.kind == first.kind or np.hypot(o.x - first.x, o.y - first.y) < SPACING for o in others):
            continue
        table.place((first, *others))
        if pose.held is not None:
            table.object_qpos(0)[:] = pose.held
        table.forward()
        if not any(table.touched(i) for i in range(pose.held is not None, count)):
            return pose.held is not None


def ask(table: Tabletop, rng: np.random.Generator, held: bool) -> list[dict]:
    """Draws questions about the present scene, their order and their wordings."""
    scene = table.scene
    shown, point, inside = seen(table)
    questions = []

    def spot(i: int) -> list[float]:
        return [round(c, 4) for c in point[i]]

    def say(kind: str, answer: str | list, **words: str) -> None:
        questions.append({"type": kind, "question": str(rng.choice(WORDINGS[kind])).format(**words), "answer": answer})

    for i in rng.permutation(inside)[:2]:
        say("where", [spot(i)], name=scene[i].name)
    if inside and len(inside) == len(scene):
        # All objects from left to right, each with its point: many scored words per image, so colours and shapes are learned
        # long before any one question would teach them.
        say("list", [part for i in sorted(inside, key=lambda i: point[i][0]) for part in (scene[i].name, spot(i))])
    for i in rng.permutation(shown)[:2]:
        say("reach", reach(table, int(i)), name=scene[i].name)
    for i in rng.permutation(shown):
        if sum(o.shape == scene[i].shape for o in scene) == 1:
            say("colour", scene[i].colour, shape=scene[i].shape)
            break
    for i in rng.permutation(shown):
        if sum(o.colour == scene[i].colour for o in scene) == 1:
            say("shape", scene[i].shape, colour=scene[i].colour)
            break
    if len(shown) == len(scene):
        say("count", COUNTS[len(scene)])
    pairs = [(i, j) for i in inside for j in inside if i != j and abs(point[i][0] - point[j][0]) > 0.08]
    if pairs:
        a, b = pairs[rng.integers(len(pairs))]
        side = str(rng.choice(["left", "right"]))
        yes = (point[a][0] < point[b][0]) == (side == "left")
        say("relation", "yes" if yes else "no", a=scene[a].name, b=scene[b].name, side=side)
    # Fewer images show a held object than not; asking after it in a share of the others keeps yes and no even.
    if held or rng.random() < 0.35 / 0.65:
        say("holding", "yes" if held else "no")
    return questions


def seen(table: Tabletop) -> tuple[list[int], dict[int, tuple[float, float]], list[int]]:
    """What the front camera sees: the visible objects, where each of them is in the image, and those well inside it."""
    shown = [i for i in range(len(table.scene)) if visible(table, i)]
    point = {i: table.project(i) for i in shown}
    return shown, point, [i for i in shown if all(0.02 < c < 0.98 for c in point[i])]


def ask_numbers(table: Tabletop, rng: np.random.Generator) -> list[dict]:
    """Questions of numbers, drawn as `ask` draws; nothing where an object is hidden."""
    scene = table.scene
    if not all(visible(table, i) for i in range(len(scene))):
        return []

    def say(kind: str, answer: str, **words: str) -> dict:
        return {"type": kind, "question": str(rng.choice(WORDINGS[kind])).format(**words), "answer": answer}

    questions, order = [], sorted(range(len(scene)), key=lambda i: table.project(i)[0])
    places = [table.project(i)[0] for i in order]
    if all(b - a > 0.08 for a, b in zip(places, places[1:], strict=False)):
        place = int(rng.integers(len(order)))
        questions.append(say("number", scene[order[place]].name, number=NUMBERS[place]))
    yes, number = bool(rng.random() < 0.5), NUMBERS[len(scene) - 1]
    other = str(rng.choice([n for n in NUMBERS if n != number]))
    symbol = str(rng.choice(SYMBOLS[number if yes else other]))
    return [*questions, say("as many", "yes" if yes else "no", symbol=symbol)]


def reach(table: Tabletop, index: int) -> list[int]:
    """The offset from the gripper to object `index`: x, y and z within REACH, and the angle to its faces, each as one of 256 even
    steps."""
    state = table.state()
    offset = np.append((table.position(index) - state[:3]) / REACH, turn(table, index) / (np.pi / 4))
    return np.clip((offset + 1) * 128, 0, 255).astype(int).tolist()


def visible(table: Tabletop, index: int) -> bool:
    """Whether the front camera sees the upper middle of object `index`: the first thing on the line of sight is the object."""
    import mujoco

    model, data = table.model, table.data
    cam = model.camera("front").id
    target = table.position(index) + (0, 0, TABLE_HEIGHT + table.scene[index].half_height * 0.5)
    start = data.cam_xpos[cam]
    hit = np.zeros(1, np.int32)
    shown = np.array([0, 1, 1, 0, 0, 0], np.uint8)
    mujoco.mj_ray(model, data, start, target - start, shown, 1, -1, hit)
    return bool(hit[0] >= 0 and model.geom_bodyid[hit[0]] == table.body(index))


def vocabulary_corpus(numbers: bool = False) -> list[str]:
    """Every wording with every noun, for training a tokenizer; with `numbers` also the questions about numbers."""
    names = [f"{c} {s}" for c in COLOURS for s in SHAPES]
    lines = [w.format(name=n) for w in Lift.wordings + WORDINGS["where"] + WORDINGS["reach"] for n in names]
    lines += [w.format(shape=s) for w in WORDINGS["colour"] for s in SHAPES]
    lines += [w.format(colour=c) for w in WORDINGS["shape"] for c in COLOURS]
    lines += [
        w.format(a=a, b=b, side=s)
        for w in WORDINGS["relation"]
        for a, b in zip(names, names[1:], strict=False)
        for s in ("left", "right")
    ]
    lines += [*WORDINGS["count"], *WORDINGS["holding"], *WORDINGS["list"], *COUNTS, *COLOURS, *SHAPES, "yes", "no"]
    if numbers:
        lines += [w.format(number=n) for w in WORDINGS["number"] for n in NUMBERS]
        lines += [w.format(symbol=s) for w in WORDINGS["as many"] for n in NUMBERS for s in SYMBOLS[n]]
    return lines

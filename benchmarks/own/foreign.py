"""The tabletop's demonstrations as a data set of somebody else's arm: LeRobot v3.0, other names, no word of our conventions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from outside.lerobot_folder import vectors, video, write

import vla

CAMERAS = {"front": "observation.images.cam_high", "wrist": "observation.images.cam_gripper"}
STATE = ["carriage_x", "carriage_y", "lift", "turntable", "jaw_gap"]
ACTION = ["carriage_x_step", "carriage_y_step", "lift_step", "roll_step", "pitch_step", "turn_step", "jaw"]
CARD = """\
title: bench arm
embodiment: bench-arm
cameras:
  cam_high: {key: observation.images.cam_high, orientation: upright}
  cam_gripper: {key: observation.images.cam_gripper, orientation: upright}
state:
  - {key: observation.state, names: [carriage_x, carriage_y, lift, turntable, jaw_gap], units: [m, m, m, rad, m]}
action:
  - {key: action, pick: [0, 1, 2], names: [carriage_x_step, carriage_y_step, lift_step], units: [m], role: position}
  - {key: action, pick: [3, 4, 5], names: [roll_step, pitch_step, turn_step], units: [rad], role: rotation}
  - {key: action, pick: [6], names: [jaw], units: [""], role: gripper, low: 0, high: 1}
instruction: [task]
mode: delta
rotation: axis_angle
gripper: 0 closed, 1 open
control_hz: 10
"""
"""What the owner of the arm writes: `vla data convert --card`."""


def write_foreign(demonstrations: Path, folder: Path, flipped: bool = False) -> Path:
    """Writes the data set.

    Args:
        demonstrations: folder of `vla collect`.
        folder: folder of the data set.
        flipped: whether the jaw's action says the opposite of what was done.
    """
    episodes = vla.open_dataset(demonstrations).demonstrations()
    tasks = list(dict.fromkeys(_task(one.instruction[0]) for one in episodes))

    def action(episode: int, length: int) -> pa.Array:
        values = episodes[episode].action.copy()
        closed = (1 + values[:, 6]) / 2
        values[:, 6] = closed if flipped else 1 - closed
        return vectors(values)

    def frames(camera: str):
        return lambda episode, length: [episodes[episode].images(step)[camera] for step in range(length)]

    size = episodes[0].images(0)["front"].shape
    named = {"action": ACTION, "observation.state": STATE}
    described = {key: {"dtype": "float32", "shape": [len(names)], "names": names} for key, names in named.items()}
    return write(
        folder,
        [len(one) for one in episodes],
        version="v3.0",
        columns={
            "action": action,
            "observation.state": lambda episode, length: vectors(episodes[episode].state),
            "task_index": lambda episode, length: pa.array(np.full(length, tasks.index(_task(episodes[episode].instruction[0])))),
        },
        described={"observation.images.top": None, **described, **{key: video(shape=size) for key in CAMERAS.values()}},
        info={"robot_type": "bench_arm"},
        tasks=tasks,
        films={key: frames(camera) for camera, key in CAMERAS.items()},
    )


def _task(instruction: str) -> str:
    """The foreign wording of an instruction: "lift the red cube" becomes "Pick up: red cube"."""
    return f"Pick up: {instruction.split(' the ', 1)[-1]}"

"""The Panda of robosuite's tasks as data: cameras, spaces and limits. Imports no simulator, so that any process may know it."""

from __future__ import annotations

from vla.contract import Camera, Embodiment
from vla.space import Space

SIZE = 64
"""Edge of the policy's images in pixels."""
CONTROL_HZ = 20.0
CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
"""Name in an observation -> robosuite's."""


def _panda(gripper: bool) -> Embodiment:
    """The Panda as robosuite drives it, by the conventions of robomimic's data: what is trained on those acts here too."""
    fingers = 2 * gripper
    return Embodiment(
        cameras=tuple(Camera(name, SIZE, SIZE) for name in CAMERAS),
        state=Space(
            names=("x", "y", "z", "rx", "ry", "rz", "finger_1", "finger_2")[: 6 + fingers],
            units=("m",) * 3 + ("rad",) * 3 + ("m",) * fingers,
            low=(-1.0, -1.0, 0.5) + (-3.2,) * 3 + (-0.05,) * fingers,
            high=(1.0, 1.0, 2.0) + (3.2,) * 3 + (0.05,) * fingers,
        ),
        action=Space(
            names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper")[: 6 + gripper],
            units=("0.05 m",) * 3 + ("0.5 rad",) * 3 + ("",) * gripper,
            low=(-1.0,) * (6 + gripper),
            high=(1.0,) * (6 + gripper),
        ),
        gripper="-1 open, +1 closed" if gripper else "none",
        control_hz=CONTROL_HZ,
        keys={
            "openpi-libero": {
                "observation/image": "agentview",
                "observation/wrist_image": "eye_in_hand",
                "observation/state": "state",
                "prompt": "instruction",
            }
        },
    )


EMBODIMENTS = {"robosuite-panda": _panda(True), "robosuite-panda-wiper": _panda(False)}


def embodiment(task: str) -> tuple[str, Embodiment]:
    """Name and description of the robot of a task: Wipe has a wiper in the gripper's place."""
    name = "robosuite-panda" + "-wiper" * (task == "robosuite-Wipe")
    return name, EMBODIMENTS[name]

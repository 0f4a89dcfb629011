"""The simulated robots as data: their cameras, spaces and limits. Imports no simulator, so that any process may know them."""

from __future__ import annotations

from vla.contract import Camera, Embodiment, Space

TABLE_HEIGHT = 0.8
CONTROL_HZ = 10.0
POSITION_STEP, ROTATION_STEP = 0.06, 0.35
"""The largest position (m) and rotation (rad) difference of one action."""
SIZE = 64
"""Edge of the policy's pictures in pixels."""

EMBODIMENT_NAME = "panda-tabletop"
EMBODIMENT = Embodiment(
    cameras=(Camera("front", SIZE, SIZE), Camera("wrist", SIZE, SIZE)),
    state=Space(
        names=("x", "y", "z", "yaw", "gap"),
        units=("m", "m", "m", "rad", "m"),
        low=(-0.25, -0.3, 0.0, -1.2, 0.0),
        high=(0.25, 0.3, 0.3, 1.2, 0.08),
    ),
    action=Space(
        names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", ""),
        low=(-POSITION_STEP,) * 3 + (-ROTATION_STEP,) * 3 + (-1.0,),
        high=(POSITION_STEP,) * 3 + (ROTATION_STEP,) * 3 + (1.0,),
        constant=(None, None, None, 0.0, 0.0, None, None),
    ),
    control_hz=CONTROL_HZ,
    keys={
        "openpi-libero": {
            "observation/image": "front",
            "observation/wrist_image": "wrist",
            "observation/state": "state",
            "prompt": "instruction",
        }
    },
)

STOCK_HZ = 20.0
STOCK_CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
"""Cameras of robosuite's own tasks: name in an observation -> robosuite's."""


def _stock(gripper: bool) -> Embodiment:
    """The Panda as robosuite drives it, by the conventions of robomimic's data: what is trained on those acts here too."""
    fingers = 2 * gripper
    return Embodiment(
        cameras=tuple(Camera(name, SIZE, SIZE) for name in STOCK_CAMERAS),
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
        control_hz=STOCK_HZ,
        keys={
            "openpi-libero": {
                "observation/image": "agentview",
                "observation/wrist_image": "eye_in_hand",
                "observation/state": "state",
                "prompt": "instruction",
            }
        },
    )


STOCK_EMBODIMENTS = {"robosuite-panda": _stock(True), "robosuite-panda-wiper": _stock(False)}


def robot(task: str) -> tuple[str, Embodiment]:
    """Name and description of the robot that a task (`vla.sim.tasks`) is for."""
    if not task.startswith("robosuite-"):
        return EMBODIMENT_NAME, EMBODIMENT
    name = "robosuite-panda" + "-wiper" * (task == "robosuite-Wipe")
    return name, STOCK_EMBODIMENTS[name]

"""The tabletop's robot as data: cameras, spaces and limits. Imports no simulator, so that any process may know it."""

from __future__ import annotations

from vla.contract import Camera, Embodiment
from vla.space import Space

TABLE_HEIGHT = 0.8
CONTROL_HZ = 10.0
POSITION_STEP, ROTATION_STEP = 0.06, 0.35
"""The largest position (m) and rotation (rad) difference of one action."""
SIZE = 64
"""Edge of the policy's images in pixels."""

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

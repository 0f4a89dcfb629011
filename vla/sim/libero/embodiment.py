"""LIBERO's Panda as data: cameras, spaces and limits. Imports no simulator, so that any process may know it."""

from __future__ import annotations

from vla.contract import Camera, Embodiment
from vla.space import Space

SIZE = 256
"""Edge in pixels of the policy's images, where its contract does not say another one."""
CONTROL_HZ = 20.0
CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
"""Name in an observation -> LIBERO's."""

EMBODIMENT_NAME = "libero-panda"
EMBODIMENT = Embodiment(
    # As every published policy saw them: `[::-1, ::-1]` of a raw image is upright, and mirrored left to right.
    cameras=tuple(Camera(name, SIZE, SIZE, "mirrored") for name in CAMERAS),
    state=Space(
        names=("x", "y", "z", "rx", "ry", "rz", "finger_1", "finger_2"),
        units=("m",) * 3 + ("rad",) * 3 + ("m",) * 2,
        low=(-1.0, -1.0, 0.0) + (-4.0,) * 3 + (-0.05,) * 2,
        high=(1.0, 1.0, 2.0) + (4.0,) * 3 + (0.05,) * 2,
    ),
    action=Space(
        names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
        units=("0.05 m",) * 3 + ("0.5 rad",) * 3 + ("",),
        low=(-1.0,) * 7,
        high=(1.0,) * 7,
    ),
    gripper="-1 open, +1 closed",
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

"""Opening robosuite's door: the gripper takes the lever from the front, one finger above and one below, turns with it, and pulls.

From above it would not do: the hand is wide along the line of its fingers, and the door stands behind the lever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.sim.robosuite.experts.hand import action, grasped, pose, sim

if TYPE_CHECKING:
    from robosuite.environments.manipulation.door import Door

UNLATCHED = 1.25
"""Angle of the lever (rad) at which its bolt has cleared the post."""
PRESS, PULL = 0.25, 0.12
"""How far ahead (rad) of the lever and of the door the gripper aims."""
AJAR = 0.05
"""Angle of the door (rad) from which the bolt holds nothing."""
BACK = 0.08
"""Distance (m) from the lever at which the gripper turns to it."""


def door_action(env: Door) -> np.ndarray:
    """The action [7], each -1 to 1, that the expert would take now."""
    import mujoco

    model, data = sim(env).model._model, sim(env).data._data
    here, hand = pose(env)
    # The lever's own axes: along it, into the door, and up.
    _, into, up = data.xmat[env.object_body_ids["latch"]].reshape(3, 3).T
    # Half a turn makes no difference to the gripper: the nearer way round.
    ways = [np.stack([line, np.cross(into, line), into], 1) for line in (up, -up)]
    wanted = min(ways, key=lambda way: float(np.linalg.norm(_vector(way @ hand.T))))
    goal = data.site_xpos[env.door_handle_site_id].copy()
    held = grasped(env, [g for g in env.door.contact_geoms if g.endswith("handle")])
    if held:
        lever, door = data.qpos[env.handle_qpos_addr], data.qpos[env.hinge_qpos_addr]
        press = 0.0 if door > AJAR else float(np.clip(UNLATCHED + 0.1 - lever, 0, PRESS))
        pull = PULL if lever > UNLATCHED or door > AJAR else 0.0
        for joint, angle in ((env.door.joints[1], press), (env.door.joints[0], pull)):
            # Where this grip is when the joint is a little further.
            number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, joint)
            turned = _rotation(data.xaxis[number] * angle)
            goal = data.xanchor[number] + turned @ (goal - data.xanchor[number])
            wanted = turned @ wanted
    offset, turn = goal - here, _vector(wanted @ hand.T)
    if held:
        return action(offset, turn, 1.0)
    ahead = float(offset @ into)
    aside = offset - ahead * into
    astray, angle = float(np.linalg.norm(aside)), float(np.linalg.norm(turn))
    back = np.clip((astray - 0.01) * 3 + max(angle - 0.15, 0) * 0.25, 0, BACK)
    closing = astray < 0.012 and angle < 0.2 and abs(ahead) < 0.012
    return action(aside + (ahead - back) * into, turn, 1.0 if closing else -1.0)


def _rotation(vector: np.ndarray) -> np.ndarray:
    """The matrix [3, 3] of a rotation vector [3] (rad)."""
    import mujoco

    angle, quat, flat = float(np.linalg.norm(vector)), np.zeros(4), np.zeros(9)
    mujoco.mju_axisAngle2Quat(quat, vector / max(angle, 1e-9), angle)
    mujoco.mju_quat2Mat(flat, quat)
    return flat.reshape(3, 3)


def _vector(matrix: np.ndarray) -> np.ndarray:
    """The rotation vector [3] (rad) of a matrix [3, 3]."""
    import mujoco

    quat, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quat, matrix.flatten())
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector

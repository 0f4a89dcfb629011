"""LIBERO's tasks with a policy behind a server. Keys, waiting steps, seed and lengths as in openpi's examples/libero."""

import argparse
import math

import numpy as np
from vla_client import Connection, Guard, Limits, RecedingHorizon

WAIT = 10
"""Steps before the policy is asked: the objects fall onto the table first."""
NOTHING = [0.0] * 6 + [-1.0]
LENGTHS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
SIZE = 224


def resized(image, size=SIZE):
    """An image [H, W, 3] turned by 180 degrees, as LIBERO's data are, padded to a square and scaled to `size` pixels."""
    from PIL import Image

    turned = Image.fromarray(np.ascontiguousarray(image[::-1, ::-1]))
    scale = size / max(turned.size)
    small = turned.resize((round(turned.width * scale), round(turned.height * scale)), Image.BILINEAR)
    square = Image.new("RGB", (size, size))
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.asarray(square)


def axis_angle(quaternion):
    """[x, y, z, w] -> rotation axis times angle (rad), [3]."""
    x, y, z, w = quaternion
    sine = math.sqrt(max(1 - min(abs(w), 1.0) ** 2, 0.0))
    return np.zeros(3) if sine < 1e-8 else np.array([x, y, z]) * 2 * math.acos(max(-1.0, min(1.0, w))) / sine


def message(observation, instruction):
    """LIBERO's observation under openpi's keys."""
    position, quaternion = observation["robot0_eef_pos"], observation["robot0_eef_quat"]
    state = np.concatenate([position, axis_angle(quaternion), observation["robot0_gripper_qpos"]])
    return {
        "observation/image": resized(observation["agentview_image"]),
        "observation/wrist_image": resized(observation["robot0_eye_in_hand_image"]),
        "observation/state": state,
        "prompt": instruction,
    }


def episode(env, initial, instruction, connection, execute=5, length=300):
    """One episode; whether the task was done.

    Args:
        env: has reset, set_init_state and step, as LIBERO's OffScreenRenderEnv.
        initial: the state in which it begins.
    """
    connection.reset()
    policy = RecedingHorizon(connection.infer, execute)
    env.reset()
    observation = env.set_init_state(initial)
    guard = None
    for step in range(length + WAIT):
        if step < WAIT:
            observation, _, done, _ = env.step(NOTHING)
        else:
            action = policy.step(message(observation, instruction) if policy.needs_observation else {})
            guard = guard or Guard(limits(connection, len(action)))
            observation, _, done, _ = env.step(guard(action).tolist())
        if done:
            return True
    return False


def limits(connection, dimensions):
    """The contract's, or LIBERO's own -1 to 1 where the server tells none."""
    if "contract" in connection.metadata:
        return Limits.of(connection.metadata)
    return Limits([-1.0] * dimensions, [1.0] * dimensions)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="ws://127.0.0.1:8000")
    parser.add_argument("--key")
    parser.add_argument("--suite", default="libero_spatial", choices=sorted(LENGTHS))
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--execute", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()

    import os

    from libero.libero import benchmark, get_libero_path
    from libero.libero.envs import OffScreenRenderEnv

    np.random.seed(options.seed)
    suite = benchmark.get_benchmark_dict()[options.suite]()
    connection = Connection(options.url, options.key, timeout=60.0)
    done = tried = 0
    for number in range(suite.n_tasks):
        task = suite.get_task(number)
        file = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
        env = OffScreenRenderEnv(bddl_file_name=file, camera_heights=256, camera_widths=256)
        # The seed moves objects even from a fixed initial state.
        env.seed(options.seed)
        states = suite.get_task_init_states(number)
        for trial in range(min(options.trials, len(states))):
            done += episode(env, states[trial], task.language, connection, options.execute, LENGTHS[options.suite])
            tried += 1
            print(f"{task.language}: {done} of {tried}", flush=True)
        env.close()


if __name__ == "__main__":
    main()

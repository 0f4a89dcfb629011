"""Compares our environment of one task with the benchmark's own, in a process of its own: `python stock_libero.py TASK EPISODES`.

Prints one JSON object: for each protocol whether states and images of the episodes are equal after reset and after some steps,
and how like the fast images are.
"""

import json
import sys
import time

import numpy as np

from vla.sim.libero.benchmark import initial_states, problems, task_files
from vla.sim.libero.environment import Environment
from vla.sim.libero.protocols import PROTOCOLS, SETTLING
from vla.sim.libero.rendering import Rendering
from vla.sim.libero.tasks import TASKS

STEPS = 8


def similarity(one, two):
    """Structural similarity of two images (Wang et al. 2004) of grey levels, with windows of 8 x 8 pixels."""
    windows = [np.lib.stride_tricks.sliding_window_view(image.mean(-1), (8, 8))[::4, ::4].reshape(-1, 64) for image in (one, two)]
    (ma, mb), (va, vb) = [w.mean(1) for w in windows], [w.var(1) for w in windows]
    covariance = ((windows[0] - ma[:, None]) * (windows[1] - mb[:, None])).mean(1)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * ma * mb + c1) * (2 * covariance + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))))


def stock_episodes(task, protocol, episodes):
    """The benchmark's own loop, as the protocol's evaluator has it: (state after reset, after steps, images, seconds) each."""
    from libero.libero.envs import OffScreenRenderEnv

    env = OffScreenRenderEnv(bddl_file_name=str(task_files(task)[0]), camera_heights=256, camera_widths=256)
    if protocol.loads == 3:
        env.reset()
    if protocol.seeded == "task":
        env.seed(protocol.seed)
    states = initial_states(task)
    for episode in range(max(episodes) + 1):
        if protocol.seeded == "episode":
            env.seed(protocol.seed + episode)
        env.reset()
        if episode not in episodes:
            continue
        observation = env.set_init_state(states[episode])
        for _ in range(protocol.settling):
            observation, *_ = env.step(list(SETTLING))
        first = state_of(env.env), images(observation)
        first = *first, proprioception(observation)
        for action in actions():
            observation, *_ = env.step(action)
        yield first, (state_of(env.env), images(observation), proprioception(observation))
        if protocol.seeded == "episode":
            # An episode has an environment of its own there.
            break
    env.close()


def images(observation):
    return [observation[f"{camera}_image"][::-1, ::-1] for camera in ("agentview", "robot0_eye_in_hand")]


def proprioception(observation):
    """As OpenVLA's and openpi's evaluators make it."""
    x, y, z, w = observation["robot0_eef_quat"]
    turn = np.array([x, y, z]) * 2 * np.arccos(w) / np.sqrt(1 - w * w)
    return np.concatenate([observation["robot0_eef_pos"], turn, observation["robot0_gripper_qpos"]])


def state_of(env):
    model, data = env.sim.model._model, env.sim.data._data
    return [part.copy() for part in (data.qpos, data.qvel, model.body_pos, model.body_quat)]


def actions():
    return np.random.RandomState(3).uniform(-1, 1, (STEPS, 7)).tolist()


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def compare(stock, environment, fast=()):
    """What of an observation of the benchmark's is equal to ours."""
    state, images, proprioceptive = stock
    ours = list(environment.seen.images.values())
    return {
        "state": same(state, state_of(environment.env)),
        "proprioception": bool(np.allclose(proprioceptive, environment.seen.state, atol=1e-12)),
        "pixels": [int(np.abs(a.astype(int) - b).max()) for a, b in zip(images, ours, strict=True)],
        "fast": [round(similarity(a, b), 4) for a, b in zip(images, fast, strict=True)] if fast else [],
    }


def main(name, episodes):
    task = TASKS[name]
    problems()
    report, ours = {}, Environment(task)
    exact, fast = (Rendering(PROTOCOLS["ours"], drawing) for drawing in ("exact", "fast"))
    for protocol_name in ("openvla", "lerobot"):
        protocol, rows = PROTOCOLS[protocol_name], []
        chosen = [0] if protocol.seeded == "episode" else episodes
        stock = list(stock_episodes(task, protocol, chosen))
        # Last to first: the order must not matter.
        for episode, (began, ended) in list(zip(chosen, stock, strict=True))[::-1]:
            ours.reset(protocol, episode, fast)
            quick = list(ours.seen.images.values())
            started = time.process_time()
            ours.reset(protocol, episode, exact)
            seconds = time.process_time() - started
            begins = compare(began, ours, quick)
            for action in actions():
                ours.step(np.array(action), exact)
            rows.append({"begins": begins, "ends": compare(ended, ours), "reset CPU seconds": round(seconds, 3)})
        report[protocol_name] = rows
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], [int(n) for n in sys.argv[2].split(",")])

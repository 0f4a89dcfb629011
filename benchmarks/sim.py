"""Compares the simulation with robosuite's stock environment of the same tabletop: steps, resets, evaluations, memory.

Stock is what robosuite does by itself: offscreen camera observations at every step, its own physics step, a hard reset for every
episode, one process, one call of the policy per step. Both sides run in turns on the same machine. Steps per second are also
recorded for every task, robosuite's own among them. Prints one JSON object.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

if __name__ == "__main__":
    # Before the simulator, see vla/sim/gl.py. Worker processes, which import this file too, go without.
    import torch

    torch.set_num_threads(1)

from vla.observation import Observation
from vla.report.intervals import wilson
from vla.report.provenance import provenance
from vla.sim.episodes import Episode
from vla.sim.robosuite import embodiment as robosuite_panda
from vla.sim.robosuite import tasks as robosuite_tasks
from vla.sim.robosuite.environment import Environment
from vla.sim.rollout import Workers, rollout
from vla.sim.suites import load_suite
from vla.sim.tabletop import tabletop
from vla.sim.tabletop.embodiment import EMBODIMENT_NAME, SIZE
from vla.sim.tabletop.episodes import set_up, start_noise
from vla.sim.tabletop.scene_variation import SceneVariation
from vla.sim.tabletop.tasks import TASKS, find_task
from vla.sim.tabletop.tasks.outcome import Outcome
from vla.sim.tabletop.variation import TabletopVariation

EXPORT = Path("runs/demo/export")
CAMERAS = {"front": "front", "wrist": "robot0_eye_in_hand"}
LARGE = 128


class Stock(tabletop.Tabletop):
    """The tabletop as a stock robosuite environment."""

    def __init__(self, size: int):
        self.options = {
            "has_offscreen_renderer": True,
            "use_camera_obs": True,
            "camera_names": list(CAMERAS.values()),
            "camera_heights": size,
            "camera_widths": size,
            "hard_reset": True,
        }
        self._env = tabletop.make_robosuite(**self.options)
        self._find()

    def _find(self) -> None:
        """Looks up the parts of the compiled model, which a hard reset replaces; what ours changes in it is left as it was."""
        mine, make = self._env, tabletop.make_robosuite
        tabletop.make_robosuite = lambda: mine
        groups, ambient = mine.sim.model._model.geom_group.copy(), mine.sim.model._model.vis.headlight.ambient.copy()
        timestep = mine.sim.model._model.opt.timestep
        try:
            super().__init__()
        finally:
            tabletop.make_robosuite = make
        self._env.model_timestep = self.model.opt.timestep = timestep
        self.model.geom_group[:], self.model.vis.headlight.ambient[:] = groups, ambient

    def reset(self, scene, rng=None) -> None:
        self._env.reset()
        self._find()
        self.show(scene)

    def show(self, scene) -> None:
        """Puts a scene before the robot, wherever that is, and looks at it."""
        self.place(scene)
        self.forward()
        self._current()
        self._seen = self._env._get_observations(force_update=True)

    def step(self, action: np.ndarray) -> None:
        self._current()
        self._seen = self._env.step(np.clip(action / self._scale, -1, 1))[0]

    def _current(self) -> None:
        # Stock code takes for granted that nobody else renders in its process.
        self._env.sim._render_context_offscreen.gl_ctx.make_current()

    def images(self) -> dict[str, np.ndarray]:
        return {name: self._seen[f"{camera}_image"][::-1] for name, camera in CAMERAS.items()}


def moves(steps: int) -> np.ndarray:
    """Returns small actions over the table, [steps, 7]."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(-0.02, 0.02, (steps, 3)), np.zeros((steps, 3)), rng.choice([-1.0, 1.0], (steps, 1))], 1)


def speed(task: str, rounds: int, steps: int = 20) -> dict:
    """Returns control steps per second of each side, alternating, both cameras rendered at LARGE after each step; medians."""
    ours, stock, size = own_task(task) if task in robosuite_tasks.TASKS else our_task(task)
    actions = moves(steps)[:, :size]

    def rate(step: Callable[[np.ndarray], object], actions: np.ndarray) -> float:
        began = time.perf_counter()
        for action in actions:
            step(action)
        return len(actions) / (time.perf_counter() - began)

    for step in (ours, stock):
        rate(step, actions[:5])
    pairs = [(rate(ours, actions), rate(stock, actions)) for _ in range(rounds)]
    mine, theirs, ratio = (statistics.median(values) for values in zip(*((o, s, o / s) for o, s in pairs), strict=True))
    return {"ours": mine, "stock": theirs, "ratio": ratio}


def our_task(task: str) -> tuple[Callable, Callable, int]:
    """Returns functions that step and render a scene of a tabletop task, ours and stock, and the size of an action."""
    ours, stock = tabletop.Tabletop(), Stock(LARGE)
    for table in (ours, stock):
        table.reset(set_up(Episode(0, task=task))[0])

    def step(action: np.ndarray) -> list[np.ndarray]:
        ours.step(action)
        return [ours.render(name, LARGE) for name in CAMERAS]

    return step, stock.step, 7


def own_task(task: str) -> tuple[Callable, Callable, int]:
    """Returns the same for one of robosuite's own tasks."""
    import robosuite
    from robosuite.controllers import load_composite_controller_config

    ours = Environment(task)
    stock = robosuite.make(
        robosuite_tasks.TASKS[task].environment,
        robots="Panda",
        controller_configs=load_composite_controller_config(robot="Panda"),
        camera_names=list(robosuite_panda.CAMERAS.values()),
        camera_heights=LARGE,
        camera_widths=LARGE,
        control_freq=int(robosuite_panda.CONTROL_HZ),
        horizon=100_000,
        ignore_done=True,
        seed=0,
    )
    ours.reset(0)
    stock.reset()

    def step(action: np.ndarray) -> list[np.ndarray]:
        ours.step(action)
        return [ours.render(name, LARGE) for name in robosuite_panda.CAMERAS]

    def stock_step(action: np.ndarray) -> object:
        stock.sim._render_context_offscreen.gl_ctx.make_current()
        return stock.step(action)

    return step, stock_step, stock.action_dim


def resets(rounds: int = 8) -> dict:
    """Returns the seconds from one episode's variation and scene to the next one's, and those of a hard reset."""
    names = ("rt2/unseen-environments", "rt2/unseen-backgrounds", "rt2/unseen-heights")
    variations = [variation for name in names for variation in load_suite(name).variations]
    ours, stock = tabletop.Tabletop(), Stock(LARGE)
    scene_variation, scene = SceneVariation(ours), set_up(Episode(0))[0]
    ours.reset(scene)
    pairs = []
    for number in range(rounds):
        began = time.perf_counter()
        scene_variation.dress(variations[number % len(variations)])
        ours.reset(set_up(Episode(number))[0])
        middle = time.perf_counter()
        stock._env.reset()
        pairs.append((middle - began, time.perf_counter() - middle))
    mine, theirs = (statistics.median(pair[k] for pair in pairs) for k in (0, 1))
    return {"ours_seconds": mine, "stock_seconds": theirs, "ratio": theirs / mine}


def plain_loop(episodes: int) -> dict:
    """Runs the demo's policy in a plain loop."""
    from vla.policies.local import LocalPolicy

    policy, table = LocalPolicy.from_export(EXPORT, batch=1), Stock(SIZE)
    began, steps, successes = time.perf_counter(), 0, 0
    for seed in range(episodes):
        episode = Episode(seed)
        scene, goal, instruction = set_up(episode)
        table.reset(scene, start_noise(episode))
        outcome = Outcome(find_task(episode.task), goal)
        policy.reset(["plain"])
        while not outcome.over:
            seen = Observation("plain", table.images(), table.state(), instruction, EMBODIMENT_NAME)
            chunk = policy.act([seen])[0]
            table.step(chunk.actions[0])
            outcome.update(table, bool(chunk.terminate[0]))
        steps, successes = steps + outcome.steps, successes + outcome.success
    return {
        "seconds_per_episode": (time.perf_counter() - began) / episodes,
        "steps": steps,
        "successes": successes,
        "n": episodes,
    }


def evaluation(episodes: int, workers: int) -> dict:
    """Runs the same policy on the first scenes through the engine, including the start of the workers."""
    from vla.policies.local import LocalPolicy

    policy = LocalPolicy.from_export(EXPORT, batch=workers)
    began = time.perf_counter()
    with Workers(workers) as pool:
        results = rollout(policy, [Episode(seed) for seed in range(episodes)], pool)
    return {
        "seconds_per_episode": (time.perf_counter() - began) / episodes,
        "steps": sum(r.steps for r in results),
        **wilson(sum(r.success for r in results), episodes).to_dict(),
    }


def _hold(pipe, stock: bool) -> None:
    """Runs a tabletop in a process without torch, as a worker does."""
    table = Stock(SIZE) if stock else tabletop.Tabletop()
    scene_variation = None if stock else SceneVariation(table)
    while (episodes := pipe.recv()) is not None:
        for seed in range(episodes):
            if scene_variation:
                scene_variation.dress(TabletopVariation())
            table.reset(set_up(Episode(seed))[0])
            for action in moves(3):
                table.step(action)
                table.images()
        pipe.send(psutil.Process().memory_full_info().pss / 2**20)


def memory(episodes: int) -> dict:
    """Returns the PSS in MiB of one process of each side, and the growth of ours over more episodes."""
    results = {}
    for name, stock in (("stock", True), ("ours", False)):
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_hold, args=(theirs, stock), daemon=True)
        process.start()
        pipe.send(3 if stock else 20)
        results[name] = pipe.recv()
        if not stock:
            pipe.send(episodes)
            results["growth"] = pipe.recv() - results[name]
        pipe.send(None)
        process.join()
    return {**results, "ratio": results["ours"] / results["stock"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100, help="of the evaluation")
    parser.add_argument("--plain", type=int, default=15, help="episodes of the plain loop")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not EXPORT.is_dir():
        print(f"no {EXPORT}: run make demo", file=sys.stderr)
        return 2
    held = memory(200)
    tasks, reset = {task: speed(task, 8 if task == "lift" else 2) for task in (*TASKS, *robosuite_tasks.TASKS)}, resets()
    stepped = tasks["lift"]
    plain, engine = plain_loop(options.plain), evaluation(options.episodes, options.workers)
    faster = plain["seconds_per_episode"] / engine["seconds_per_episode"]
    bars = {
        "steps per second, ratio": {"value": stepped["ratio"], "bar": ">= 4", "holds": stepped["ratio"] >= 4},
        "change of variation, ratio": {"value": reset["ratio"], "bar": ">= 5", "holds": reset["ratio"] >= 5},
        "evaluation per episode, ratio": {"value": faster, "bar": ">= 6", "holds": faster >= 6},
        "PSS per worker, ratio": {"value": held["ratio"], "bar": "<= 0.6", "holds": held["ratio"] <= 0.6},
        # The allocator rounds; a leak of one image in a hundred episodes would show.
        "growth over 200 episodes, MiB": {"value": held["growth"], "bar": "<= 2", "holds": held["growth"] <= 2},
    }
    parts = {"steps per second": tasks, "reset": reset, "plain loop": plain, "evaluation": engine, "memory": held}
    command = " ".join(["benchmarks/sim.py", *sys.argv[1:]])
    print(json.dumps({"bars": bars, **parts, **provenance(), "command": command}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

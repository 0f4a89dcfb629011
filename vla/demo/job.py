"""The stages of the demo, in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from vla.demo import questions, rollouts, server
from vla.demo.processes import train
from vla.demo.recipe import CONFIGS, Amounts
from vla.demo.stages import Stages
from vla.report.plots import read_metrics
from vla.sim.collect import collect_with_progress
from vla.sim.collect_options import Collect

Work = Callable[[], dict[str, Any]]


class Job:
    """Runs the stages that are not done yet: collects, trains, corrects, asks questions, rolls out and serves.

    Args:
        folder: folder of the run.
        configs: the whole configurations of the two trainings, their folders under `folder`.
        amounts: how much is tested.
        recorded: whether the scripted expert is evaluated too.
        stages: the finished stages.
        lock: file descriptor of the folder's lock; the training process inherits it.
    """

    def __init__(self, folder: Path, configs: list[dict[str, Any]], amounts: Amounts, recorded: bool, stages: Stages, lock: int):
        self.folder, self.configs, self.amounts, self.stages, self.lock = folder, configs, amounts, stages, lock
        self.data, self.export = folder / "data", folder / "export"
        (first, second), a, collected = configs, amounts, configs[1]["collect"]
        self.schedule: dict[str, tuple[str, Work]] = {
            "collect": (
                f"{collected['robot']['episodes']} demonstrations, {collected['questions']['images']} images with questions",
                self._collect,
            ),
            "train": (
                f"co-fine-tuning for {first['trainer']['max_steps']} steps: vla fit -c {CONFIGS[0]}",
                lambda: self._train(0),
            ),
            "correct": (
                f"{collected['dagger']['episodes']} episodes of the policy that the expert corrects (DAgger), and "
                f"{second['trainer']['max_steps']} further steps: vla fit -c {CONFIGS[1]}",
                lambda: self._train(1),
            ),
            "questions": (
                "held-out scenes, with the image and with a blank one",
                lambda: questions.ask(self.export, self.data / "held-out", self.folder, a.per_type),
            ),
            f"rollout-{a.episodes}": (
                f"{a.episodes} episodes, {a.episodes // 2} that name the other object, {a.episodes // 4} without an instruction",
                lambda: rollouts.roll_out(self.export, self.folder, a.episodes, a.horizon),
            ),
            "serve": (
                "one action through the server",
                lambda: server.compare(self.export, self.data / "robot", self.folder / "serve.log"),
            ),
        }
        if recorded:
            self.schedule["expert"] = (
                f"{rollouts.EXPERT_SCENES} scenes with the scripted expert",
                lambda: rollouts.expert(self.folder),
            )

    @property
    def trained(self) -> list[int]:
        """Number of optimizer steps in the last checkpoint of each training."""
        return [self._steps(number) for number in range(len(self.configs))]

    def _steps(self, number: int) -> int:
        checkpoints = list(self._checkpoints(number).glob("step=*.ckpt"))
        if not checkpoints:
            return 0
        from vla.training.saving import steps_in

        return max(map(steps_in, checkpoints))

    def _checkpoints(self, number: int) -> Path:
        return Path(self.configs[number]["trainer"]["default_root_dir"]) / "checkpoints"

    def progress(self) -> tuple[list[str], list[str]]:
        """Returns the names of the stages that are left, and of those that are done."""
        done, left = [], []
        for name in self.schedule:
            (done if name in self.stages.done else left).append(name.partition("-")[0])
        return left, done

    def run(self) -> dict[str, dict[str, Any]]:
        """Runs the stages that are not done and returns the results of all stages by name."""
        # The folder may hold rollouts with other numbers of episodes; only the scheduled stages count.
        results = {name.partition("-")[0]: self.stages.run(name, text, work) for name, (text, work) in self.schedule.items()}
        # The configurations are rewritten because the folder may have been moved.
        for number in range(len(self.configs)):
            self._write_config(number)
        return results

    def _write_config(self, number: int) -> Path:
        path = self.folder / Path(CONFIGS[number]).name
        path.write_text(yaml.safe_dump(self.configs[number], sort_keys=False))
        return path

    def _collect(self) -> dict[str, Any]:
        held_out = {"out": str(self.data / "held-out"), "seed": 3, "images": self.amounts.images, "poses": self.amounts.poses}
        collected = self.configs[0]["collect"]
        data_sets = {**collected, "held_out": {**collected["questions"], **held_out}}
        counts = {name: collect_with_progress(Collect(**options, overwrite=True)) for name, options in data_sets.items()}
        robot = counts["robot"]
        text = f"{robot['episodes']} episodes, {robot['steps']} steps, {robot['discarded']} failed attempts discarded"
        return {"said": text, "counts": counts}

    def _train(self, number: int) -> dict[str, Any]:
        fix = "to resume, run the same command without --fresh"
        train(self._write_config(number), self._checkpoints(number), self.lock, "demo", fix)
        metrics = read_metrics(self._checkpoints(number).parent / "logs")
        last = {name: values[-1] for name, (_, values) in metrics.items() if values}
        final = {k: round(float(v), 5) for k, v in last.items() if k.startswith(("val/", "rollout/", "train/"))}
        return {"said": f"held-out robot loss {final.get('val/robot_loss', float('nan')):.2f}", "metrics": final}

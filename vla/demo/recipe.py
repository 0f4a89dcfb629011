"""The demo's configurations, and how much it tests."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vla.report.json_values import Json

CONFIGS = ("configs/demo.yaml", "configs/demo-dagger.yaml")
"""Of the first training, and of the one that goes on from it with the expert's corrections."""
FOLDER = "runs/demo"
"""The folder that the configurations' paths begin with."""


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much is tested. The configuration says how much is collected and trained.

    Attributes:
        episodes: evaluation episodes with the correct instruction.
        horizon: steps of an episode.
        images: held-out images with questions.
        poses: expert episodes from which the robot's poses in these images are taken.
        per_type: questions of each type.
    """

    episodes: int = 40
    horizon: int = 80
    images: int = 600
    poses: int = 12
    per_type: int = 100


SMOKE = Amounts(episodes=2, horizon=12, images=50, poses=1, per_type=4)


def configurations(smoke: bool = False, from_scratch: bool = False, seed: int = 0, precision: str = "") -> list[dict[str, Any]]:
    """Returns the configurations of both trainings with these options of `demo`; their folders are under FOLDER.

    Args:
        smoke: a little of everything.
        from_scratch: from random weights.
        seed: of the trainings; the demonstrations and the questions are the same.
        precision: `trainer.precision`; "" leaves it to the machine.
    """
    configs = [yaml.safe_load(resources.files("vla.configs").joinpath(Path(file).name).read_text()) for file in CONFIGS]
    if from_scratch:
        configs[0]["model"]["vlm"] = "scratch"
    for config in configs:
        config["seed_everything"] = config["data"]["seed"] = seed
        if precision:
            config["trainer"]["precision"] = precision
        if smoke:
            _reduce(config)
    return configs


def _reduce(config: dict[str, Any]) -> None:
    # One process each: starting it takes longer than what it does.
    few = {"robot": {"episodes": 4}, "dagger": {"episodes": 2}, "questions": {"images": 50, "poses": 1}}
    for name, options in config["collect"].items():
        options |= {**few[name], "workers": 1}
    config["data"] |= {"batch_size": 16, "val_samples": 16, "epoch_steps": 4}
    config["trainer"] |= {"max_steps": 4, "accumulate_grad_batches": 1, "val_check_interval": 4, "log_every_n_steps": 2}
    less = {"RolloutCallback": {"every": 4, "episodes": 1}, "Checkpoints": {"every": 4}}
    for callback in config["trainer"]["callbacks"]:
        callback.setdefault("init_args", {}).update(less.get(callback["class_path"].rsplit(".", 1)[1], {}))


def relocated(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the configuration with `folder` in place of FOLDER."""
    return {name: _relocated(value, folder) for name, value in config.items()}


def _relocated(value: Json, folder: Path) -> Json:
    if isinstance(value, dict):
        return relocated(value, folder)
    if isinstance(value, list):
        return [_relocated(inner, folder) for inner in value]
    return value.replace(FOLDER, str(folder)) if isinstance(value, str) else value

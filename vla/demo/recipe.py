"""What the main job does: its configuration, and how much is tested."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

CONFIG = "configs/demo.yaml"
FOLDER = "runs/demo"
"""Where the configuration's folders are."""


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much is tested; how much is collected and trained, the configuration says."""

    episodes: int = 40
    horizon: int = 80
    pictures: int = 600
    poses: int = 12
    per_type: int = 100


SMOKE = Amounts(episodes=2, horizon=12, pictures=50, poses=1, per_type=4)


def configuration(smoke: bool = False, from_scratch: bool = False) -> dict[str, Any]:
    """configs/demo.yaml; with `smoke`, a little of everything. Its folders are under FOLDER, see `moved`."""
    config = yaml.safe_load(resources.files("vla.configs").joinpath(Path(CONFIG).name).read_text())
    if from_scratch:
        config["model"]["vlm"] = "scratch"
    if smoke:
        config["collect"]["robot"]["episodes"] = 4
        config["collect"]["questions"] |= {"pictures": 50, "poses": 2}
        config["data"] |= {"batch_size": 16, "val_samples": 16, "epoch_steps": 4}
        config["trainer"] |= {"max_steps": 4, "accumulate_grad_batches": 1, "val_check_interval": 4, "log_every_n_steps": 2}
        few = {"RolloutCallback": {"every": 4, "episodes": 2}, "Checkpoints": {"every": 4}}
        for callback in config["trainer"]["callbacks"]:
            callback.setdefault("init_args", {}).update(few.get(callback["class_path"].rsplit(".", 1)[1], {}))
    return config


def moved(config: Any, folder: Path) -> Any:
    """A configuration, or a part of one, with its folders under another than FOLDER."""
    if isinstance(config, dict):
        return {name: moved(inner, folder) for name, inner in config.items()}
    if isinstance(config, list):
        return [moved(inner, folder) for inner in config]
    return config.replace(FOLDER, str(folder)) if isinstance(config, str) else config

"""The training of one cell: the arm's configuration with the cell's seed and folders, and what it logged."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla import yaml12
from vla.report.plots import read_metrics
from vla.report.study import CURVES, Curves

CONFIG, TRAIN, EXPORT, EVALUATIONS = "fit.yaml", "train", "export", "evaluation"
"""What the folder of a cell holds."""
CHECKPOINTS, LOGS = "checkpoints", "logs"
CSV = "lightning.pytorch.loggers.CSVLogger"
SAVES = "vla.training.saving.Checkpoints"
SAVED = 10
"""How often a training is saved whose recipe does not say it."""
POINTS = 30
"""Largest number of points of a curve in a record."""
LOGGED = ("val/", "train/", "rollout/")


def cell_settings(settings: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Returns an arm's settings with a seed, writing into a cell's folder.

    Nothing is collected or exported at the training's end: the study does that.
    """
    own = copy.deepcopy(dict(settings))
    own |= {"seed_everything": seed, "collect": None, "export": "", "evaluate": 0}
    own["data"]["seed"] = seed
    train, trainer = str(folder / TRAIN), own["trainer"]
    trainer["default_root_dir"] = train
    loggers = _list(trainer["logger"])
    for logger in loggers:
        if "save_dir" in (arguments := logger.setdefault("init_args", {})):
            arguments["save_dir"] = train
    if not any(logger["class_path"].endswith("CSVLogger") for logger in loggers):
        loggers.append({"class_path": CSV})
    for logger in loggers:
        if logger["class_path"].endswith("CSVLogger"):
            logger["init_args"] = {"save_dir": train, "name": "", "version": LOGS}
    callbacks = _list(trainer["callbacks"])
    newest = False
    for callback in callbacks:
        arguments = callback.get("init_args") or {}
        if "dirpath" in arguments:
            monitor = arguments.get("monitor") or "other"
            own_newest = callback["class_path"].endswith("Checkpoints") and monitor == "step"
            arguments["dirpath"] = f"{train}/{CHECKPOINTS if own_newest else monitor.replace('/', '-')}"
            newest = newest or own_newest
    if not newest:
        every = max(trainer["max_steps"] // SAVED, 1)
        callbacks.append({"class_path": SAVES, "init_args": {"dirpath": f"{train}/{CHECKPOINTS}", "every": every}})
    trainer |= {"logger": loggers, "callbacks": callbacks}
    return own


def write_config(settings: Mapping[str, Any], seed: int, folder: Path) -> Path:
    """Writes the configuration of a cell's training into its folder."""
    path = folder / CONFIG
    text = yaml12.dump(cell_settings(settings, seed, folder), sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


def curves(folder: Path) -> Curves:
    """Returns what a cell's training logged, each metric with at most `POINTS` points: means of equal parts of the run."""
    logged = read_metrics(folder / TRAIN / LOGS)
    chosen = [name for name in sorted(logged) if name.startswith(LOGGED) and any(part in name for part in CURVES)]
    return {name: _thin(*logged[name]) for name in chosen}


def _thin(steps: list[float], values: list[float]) -> list[list[float]]:
    kept = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    each = math.ceil(len(kept) / POINTS) or 1
    parts = [kept[start : start + each] for start in range(0, len(kept), each)]
    return [[part[-1][0] for part in parts], [float(f"{sum(v for _, v in part) / len(part):.5g}") for part in parts]]


def _list(value: Any) -> list[dict[str, Any]]:
    """A list of classes, of what may be one, none, or a switch."""
    return list(value) if isinstance(value, list) else [value] if isinstance(value, dict) else []

"""A small project of a user: data of the tabletop's form, a recipe of two steps, an export and a checkpoint (tests/saved)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from outside.trial import Trial

SAVED = Path(__file__).resolve().parents[2] / "tests/saved"
SMALL_LANGUAGE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SMALL_VISION = {
    "channels": [8, 8, 8, 8],
    "layers": [1, 1, 1, 1],
    "norm_layer": "groupnorm1",
    "stem_width": 8,
    "zero_init_last": False,
}
OWN = {"tokenizer": "new", "text_config": SMALL_LANGUAGE, "vision_args": SMALL_VISION, "image_size": 32, "stride": 8}
"""A model of the user's own, as small as it can be."""


def project(trial: Trial, change: Callable[[dict[str, Any]], None] = lambda recipe: None) -> Path:
    """Writes data, vlm, export and fit.yaml into the trial's folder; `change` changes the recipe."""
    shutil.copytree(SAVED / "data", trial.folder / "data")
    shutil.copytree(SAVED / "export", trial.folder / "export")
    (trial.folder / "vlm").symlink_to("export")
    text = (SAVED / "fit.yaml").read_text().replace("asked: 1", "questions_per_image: 1").replace("lead: 0", "warmup_samples: 0")
    recipe = yaml.safe_load(text)
    change(recipe)
    path = trial.folder / "fit.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def trained(trial: Trial, change: Callable[[dict[str, Any]], None] = lambda recipe: None) -> Path:
    """The same after its training of two steps; returns the folder of its checkpoints."""
    project(trial, change)
    trial.vla("fit", "-c", "fit.yaml")
    return trial.folder / "run/checkpoints"


def robot_alone(recipe: dict[str, Any], **init_args: Any) -> None:
    """Trains on the robot data alone, with changed settings of the source."""
    recipe["data"]["sources"].pop("questions")
    recipe["data"]["sources"]["robot"]["init_args"] |= init_args


def own_recipe(source: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    """A recipe for data and a model of the user's own, of one step."""
    return {
        "contract": {"plan": [], "chunk": 2, "execute": 1},
        "data": {"batch_size": 2, "val_samples": 2, "epoch_steps": 2, "sources": {"robot": source}},
        "model": {"vlm": OWN, "warmup": 1},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "max_steps": 1,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": "run",
            "logger": False,
            "enable_checkpointing": False,
            "callbacks": [],
            **trainer,
        },
    }

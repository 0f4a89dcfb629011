"""Translates options under their former names, from before they were grouped into parts. Each use gives a warning."""

from __future__ import annotations

import re
import warnings
from typing import Any

PROMPTED = "vla.systems.pr2l.observation.PromptedObservation"
"""The observation of all runs with former names."""
NAMES = {
    **{name: f"observation.{name}" for name in ("vlm", "random", "prompt", "representation", "observe", "cache")},
    **{name: f"policy.{name}" for name in ("pooler", "net", "chunk")},
    "algorithm": "learner.name",
    "arguments": "learner.arguments",
    "data": "learner.data",
    "steps": "budget.steps",
    "checkpoint": "budget.checkpoint",
}


def renamed_keys(config: dict[str, object], where: str) -> dict[str, object]:
    """Returns the configuration with current names.

    Args:
        config: the configuration.
        where: the file, for warnings.
    """
    renamed: dict[str, Any] = dict(config)
    for old in [name for name in config if name in NAMES]:
        _warn(old, f"{where}: ")
        part, _, name = NAMES[old].partition(".")
        renamed[part] = dict(renamed.get(part) or {})
        options = renamed[part]
        if part == "observation":
            options.setdefault("class_path", PROMPTED)
            options["init_args"] = dict(options.get("init_args") or {})
            options = options["init_args"]
        options[name] = renamed.pop(old)
    return renamed


def renamed_arguments(argument: str) -> list[str]:
    """Returns a command-line argument (`--steps`, `--steps=3`, `--representation.tokens=2`) under its current name."""
    matched = re.match(r"--(\w+)(?=[.=]|$)", argument)
    if matched is None or matched[1] not in NAMES:
        return [argument]
    _warn(matched[1], "--")
    renamed = f"--{NAMES[matched[1]]}{argument[matched.end() :]}"
    return [f"--observation={PROMPTED}", renamed] if renamed.startswith("--observation.") else [renamed]


def _warn(old: str, where: str) -> None:
    message = f"{where}{old} is now {NAMES[old]}; the next version removes the old name"
    warnings.warn(message, FutureWarning, stacklevel=4)

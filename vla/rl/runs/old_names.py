"""Names of options from before they were composed of parts. They work for one more version, with a warning each."""

from __future__ import annotations

import re
import warnings
from typing import Any

PROMPTED = "vla.systems.pr2l.observation.PromptedObservation"
"""The observation that all runs had."""
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
    """A configuration by today's names.

    Args:
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
    """An argument of the command line (`--steps`, `--steps=3`, `--representation.tokens=2`) by today's name."""
    matched = re.match(r"--(\w+)(?=[.=]|$)", argument)
    if matched is None or matched[1] not in NAMES:
        return [argument]
    _warn(matched[1], "--")
    renamed = f"--{NAMES[matched[1]]}{argument[matched.end() :]}"
    return [f"--observation={PROMPTED}", renamed] if renamed.startswith("--observation.") else [renamed]


def _warn(old: str, where: str) -> None:
    warnings.warn(f"{where}{old} is now {NAMES[old]}; the old name goes with the next version", FutureWarning, stacklevel=4)

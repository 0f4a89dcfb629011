"""A run's options from configurations, one upon the other, and the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from vla.errors import UserError
from vla.rl.runs.old_names import renamed_arguments, renamed_keys
from vla.rl.runs.options import RunOptions


def read_options(argv: Sequence[str]) -> RunOptions:
    """Options from several `-c FILE`, a base and overlays, and from arguments; what comes later wins.

    What nobody says is named by the files: with `babyai.yaml` and the overlay `task.yaml`, `condition` is "task" and `out` is
    "runs/rl/babyai-task".

    Raises:
        UserError: a file is no configuration, or options contradict one another.
    """
    parser = ArgumentParser(prog="vla rl fit", description="Trains a policy: in an environment, or from demonstrations.")
    parser.add_argument("-c", "--config", action="config", help="a base, e.g. configs/rl/babyai.yaml; then its overlays")
    parser.add_class_arguments(RunOptions)
    # With a default, its arguments would be handed on to the class that a configuration names.
    parser.set_defaults({"observation": None})
    arguments, files = _with_contents(argv)
    if files:
        names = [Path(file).stem for file in files]
        parser.set_defaults({"out": f"runs/rl/{'-'.join(names)}", "condition": "-".join(names[1:])})
    made = parser.instantiate(parser.parse_args(arguments))
    return RunOptions(**{name: value for name, value in vars(made).items() if name != "config" and value is not None})


def _with_contents(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments by today's names, with files replaced by their contents; and the files, none if one has old names."""
    arguments, files, rest, old = [], [], list(argv), False
    while rest:
        argument = rest.pop(0)
        if argument in ("-c", "--config") and rest:
            files.append(rest.pop(0))
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            arguments += renamed_arguments(argument)
            continue
        content = _read(files[-1])
        renamed = renamed_keys(content, files[-1])
        old |= renamed != content
        arguments.append(f"--config={json.dumps(renamed)}")
    return arguments, [] if old else files


def _read(path: str) -> dict[str, object]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"no configuration: {' '.join(str(error).split())}", path, "give a YAML file") from error
    if not isinstance(content or {}, dict):
        raise UserError("no configuration: it holds no names", path, "see configs/rl/babyai.yaml")
    return content or {}

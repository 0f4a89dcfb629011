"""Composes a run's options from configuration files and the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from vla import yaml12
from vla.errors import UserError
from vla.rl.runs.old_names import renamed_arguments, renamed_keys
from vla.rl.runs.options import RunOptions


def read_options(argv: Sequence[str]) -> RunOptions:
    """Reads options from several `-c FILE`, a base and overlays, and from arguments; later ones override earlier ones.

    The names of the files are the defaults of `condition` and `out`: with `babyai.yaml` and the overlay `task.yaml`, `condition` is
    "task" and `out` is "runs/rl/babyai-task".

    Raises:
        UserError: a file is not a configuration, or options contradict one another.
    """
    parser = ArgumentParser(prog="vla rl fit", description="Trains a policy: in an environment, or from demonstrations.", exit_on_error=False)
    parser.add_argument("-c", "--config", action="config", help="a base, e.g. configs/rl/babyai.yaml; then its overlays")
    parser.add_class_arguments(RunOptions)
    # The arguments of a default would be passed to the class that a configuration names instead.
    parser.set_defaults({"observation": None})
    arguments, files = _with_contents(argv)
    if files:
        names = [Path(file).stem for file in files]
        parser.set_defaults({"out": f"runs/rl/{'-'.join(names)}", "condition": "-".join(names[1:])})
    options = parser.instantiate(parser.parse_args(arguments))
    return RunOptions(**{name: value for name, value in vars(options).items() if name != "config" and value is not None})


def _with_contents(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns arguments under their current names, with the contents of files inserted; and the files, [] if one has old names."""
    arguments, files, rest, has_old_names = [], [], list(argv), False
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
        has_old_names |= renamed != content
        arguments.append(f"--config={json.dumps(renamed)}")
    return arguments, [] if has_old_names else files


def _read(path: str) -> dict[str, object]:
    try:
        content = yaml12.load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not a configuration: {' '.join(str(error).split())}", path, "give a YAML file") from error
    if not isinstance(content or {}, dict):
        raise UserError("not a configuration: it is not a mapping", path, "see configs/rl/babyai.yaml")
    return content or {}

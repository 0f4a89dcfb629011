"""Finds configurations: a file on disk, or one shipped with the package.

Every command imports this module, so it imports what reads a configuration where one is read.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vla.errors import UserError
from vla.renamed import RENAMED

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

Node = str | int | float | bool | None | list["Node"] | dict[str, "Node"]
"""A node of a YAML document."""


def find_config(name: str) -> str:
    """Returns the path of a configuration: on disk, else in the package (`configs/demo.yaml`, `demo.yaml`, `configs/rl/….yaml`).

    Raises:
        UserError: there is none; the error lists those of the package.
    """
    from importlib import resources

    if Path(name).is_file():
        return name
    packaged = dict(_packaged(resources.files("vla.configs"), "configs"))
    path = packaged.get(name) or packaged.get(f"configs/{name}")
    if path is None:
        raise UserError("no such configuration", name, f"give a file, or one of the package's: {', '.join(packaged)}")
    return path


def _packaged(folder: Traversable, name: str) -> Iterator[tuple[str, str]]:
    """Yields the name and the path of each configuration."""
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.is_dir(), entry.name)):
        if entry.name.endswith(".yaml"):
            yield f"{name}/{entry.name}", str(entry)
        # Data set cards and suites are not configurations.
        elif entry.is_dir() and entry.name not in ("cards", "suites"):
            yield from _packaged(entry, f"{name}/{entry.name}")


def _with_current_names(path: str) -> str:
    """Returns the path of the configuration, or of a copy with the current names of settings if it has old ones, with a warning.

    Raises:
        UserError: the file is not YAML. (jsonargparse, which merges configurations, would not name the file.)
    """
    import tempfile

    import yaml

    from vla import yaml12

    old_names: set[str] = set()

    def current(settings: Node) -> Node:
        if not isinstance(settings, dict):
            return settings
        old_names.update(settings.keys() & RENAMED.keys())
        return {RENAMED.get(key, key): value for key, value in settings.items()}

    def renamed(node: Node) -> Node:
        if isinstance(node, list):
            return [renamed(each) for each in node]
        if not isinstance(node, dict):
            return node
        node = {key: renamed(value) for key, value in node.items()}
        if "init_args" in node and str(node.get("class_path", "")).startswith("vla.datasets."):
            node["init_args"] = current(node["init_args"])
        if isinstance(collect := node.get("collect"), dict):
            node["collect"] = {name: current(options) for name, options in collect.items()}
        return node

    try:
        content = renamed(yaml12.load(Path(path).read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}", path) from None
    if not old_names:
        return path
    for name in sorted(old_names):
        _note(path, name)
    handle, copy = tempfile.mkstemp(prefix=f"{Path(path).stem}-", suffix=".yaml")
    with os.fdopen(handle, "w") as file:
        file.write(yaml12.dump(content, sort_keys=False))
    atexit.register(Path(copy).unlink, missing_ok=True)
    return copy


def _note(where: str, old: str) -> None:
    note = f"note: {where}: `{old}` is now called `{RENAMED[old]}`; the next version accepts only the new name"
    print(note, file=sys.stderr)


def with_current_name(argument: str) -> str:
    """Returns an option, e.g. `--data.sources.NAME.init_args.SETTING=1` or `--SETTING`, with the setting's present name."""
    option, equals, value = argument.partition("=")
    head, dot, setting = option.removeprefix("--").rpartition(".")
    if setting not in RENAMED:
        return argument
    _note(option, setting)
    return f"--{head}{dot}{RENAMED[setting]}{equals}{value}"


def with_paths(argv: list[str]) -> list[str]:
    """Returns the arguments with the paths of configurations and the present names of settings."""
    resolved = list(argv)
    for i, argument in enumerate(argv):
        if argument in ("-c", "--config", "--base") and i + 1 < len(argv):
            resolved[i + 1] = _with_current_names(find_config(argv[i + 1]))
        elif argument.startswith("--config="):
            resolved[i] = "--config=" + _with_current_names(find_config(argument.removeprefix("--config=")))
        elif argument.startswith("--"):
            resolved[i] = with_current_name(argument)
    return resolved

"""Configurations by name: a file on disk, or one of the package's."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from vla.errors import UserError


def find_config(name: str) -> str:
    """A configuration's path: on disk as it stands, else in the package (`configs/demo.yaml`, `demo.yaml`, `configs/rl/….yaml`).

    Raises:
        UserError: neither; the package's own are named.
    """
    if Path(name).is_file():
        return name
    own = dict(_packaged(resources.files("vla.configs"), "configs"))
    path = own.get(name) or own.get(f"configs/{name}")
    if path is None:
        raise UserError("no such configuration", name, f"give a file, or one of the package's: {', '.join(own)}")
    return path


def _packaged(folder: Traversable, name: str) -> Iterator[tuple[str, str]]:
    """The name of each configuration, and its path."""
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.is_dir(), entry.name)):
        if entry.name.endswith(".yaml"):
            yield f"{name}/{entry.name}", str(entry)
        # Data set cards and suites are no configurations.
        elif entry.is_dir() and entry.name not in ("cards", "suites"):
            yield from _packaged(entry, f"{name}/{entry.name}")


def _readable(path: str) -> str:
    """The path of a configuration with today's names: the same one, or a copy where it has older names, which are warned of.

    Raises:
        UserError: it is not YAML. (What merges configurations would not say which one.)
    """
    import yaml

    from vla.datasets.sources import RENAMED

    old: set[str] = set()

    def renamed(node: Any) -> Any:
        if isinstance(node, list):
            return [renamed(each) for each in node]
        if not isinstance(node, dict):
            return node
        node = {key: renamed(value) for key, value in node.items()}
        settings = node.get("init_args")
        if isinstance(settings, dict) and str(node.get("class_path", "")).startswith("vla.datasets."):
            old.update(settings.keys() & RENAMED.keys())
            node["init_args"] = {RENAMED.get(key, key): value for key, value in settings.items()}
        return node

    try:
        content = renamed(yaml.safe_load(Path(path).read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}", path) from None
    if not old:
        return path
    for name in sorted(old):
        print(f"note: {path}: `{name}` is now called `{RENAMED[name]}`; the next version knows only that", file=sys.stderr)
    handle, copy = tempfile.mkstemp(prefix=f"{Path(path).stem}-", suffix=".yaml")
    with os.fdopen(handle, "w") as file:
        yaml.safe_dump(content, file, sort_keys=False)
    atexit.register(Path(copy).unlink, missing_ok=True)
    return copy


def with_paths(argv: list[str]) -> list[str]:
    """Arguments with every configuration's path put in."""
    done = list(argv)
    for place, argument in enumerate(argv):
        if argument in ("-c", "--config", "--base") and place + 1 < len(argv):
            done[place + 1] = _readable(find_config(argv[place + 1]))
        elif argument.startswith("--config="):
            done[place] = "--config=" + _readable(find_config(argument.removeprefix("--config=")))
    return done

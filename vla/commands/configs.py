"""Configurations by name: a file on disk, or one of the package's."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

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
    """The path itself; UserError where it is not YAML: what merges configurations would not say which one."""
    import yaml

    try:
        yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}", path) from None
    return path


def with_paths(argv: list[str]) -> list[str]:
    """Arguments with every configuration's path put in."""
    done = list(argv)
    for place, argument in enumerate(argv):
        if argument in ("-c", "--config", "--base") and place + 1 < len(argv):
            done[place + 1] = _readable(find_config(argv[place + 1]))
        elif argument.startswith("--config="):
            done[place] = "--config=" + _readable(find_config(argument.removeprefix("--config=")))
    return done

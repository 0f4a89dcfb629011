"""Configurations by name: a file on disk, or one of the package's."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from vla.errors import UserError


def find_config(name: str) -> str:
    """A configuration's path: on disk as it stands, else in the package (`configs/demo.yaml`, `demo.yaml`, `configs/rl/….yaml`).

    Raises:
        UserError: neither; the package's own are named.
    """
    if Path(name).is_file():
        return name
    folder = resources.files("vla.configs")
    place = Path(name).parts[-2:] if Path(name).parent.name == "rl" else Path(name).parts[-1:]
    packaged = folder.joinpath(*place)
    if Path(name).parent.name in ("", "configs", "rl") and packaged.is_file():
        return str(packaged)
    own = sorted(f"configs/{f.name}" for f in folder.iterdir() if f.name.endswith(".yaml"))
    own += sorted(f"configs/rl/{f.name}" for f in (folder / "rl").iterdir())
    raise UserError("no such configuration", name, f"give a file, or one of the package's: {', '.join(own)}")


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
        if argument in ("-c", "--config") and place + 1 < len(argv):
            done[place + 1] = _readable(find_config(argv[place + 1]))
        elif argument.startswith("--config="):
            done[place] = "--config=" + _readable(find_config(argument.removeprefix("--config=")))
    return done

"""Parts that installed packages add, as entry points: simulators, model families, learners."""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import entry_points
from typing import Any

from vla.errors import UserError


@functools.cache
def plugins(group: str) -> dict[str, str]:
    """The entry points of a group: name -> "module:object".

    They are read once in every process of every machine that has the package installed, hence also in spawned workers and in
    Ray's actors.
    """
    return {entry.name: entry.value for entry in entry_points(group=group)}


def load_object(path: str) -> Any:
    """The object at "module:object".

    Raises:
        UserError: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"it cannot be loaded: {error}", path, "repair its package, or uninstall it") from error

"""training.json of an export: the data sources it was trained on. An evaluation finds there what was held out, and a server
whether the policy has learned to answer questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vla import hub
from vla.errors import UserError

FILE = "training.json"


def write_sources(folder: Path, sources: dict[str, dict[str, Any]]) -> None:
    """Writes the sources' settings (name -> setting -> value); of a folder, only the last part of its path, or its address on the
    hub."""
    (folder / FILE).write_text(json.dumps({"sources": sources}, indent=1) + "\n", encoding="utf-8")


def settings_for(policy: str, data: str | Path) -> dict[str, Any] | None:
    """The settings with which an export was trained on a data set of this name, or of this address on the hub whatever the
    revision; None if it does not say.

    Raises:
        UserError: the file is not what `write_sources` writes.
    """
    name = hub.without_revision(data)
    return next((one for one in _sources(policy) if hub.without_revision(one.get("folder", "")) == name), None)


def folders_of(policy: str) -> list[str]:
    """The names of the folders of robot data that an export was trained on; empty if it does not say. Earlier versions did not
    tell robot data from questions: then all folders.

    Raises:
        UserError: the file is not what `write_sources` writes.
    """
    return [str(one["folder"]) for one in _sources(policy) if "folder" in one and one.get("kind") in (None, "robot")]


def on_questions(policy: str | Path) -> bool | None:
    """Whether an export was trained on questions; None if it does not say.

    Raises:
        UserError: the file is not what `write_sources` writes.
    """
    kinds = {one.get("kind") for one in _sources(policy)}
    return True if "questions" in kinds else None if not kinds or None in kinds else False


def _sources(policy: str | Path) -> list[dict[str, Any]]:
    path = hub.local(policy, hub.DESCRIPTIONS) / FILE
    if not path.is_file():
        return []
    try:
        return [dict(one) for one in json.loads(path.read_text(encoding="utf-8"))["sources"].values()]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"not the record of a training: {error}", str(path), "export the checkpoint again") from None

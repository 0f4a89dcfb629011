"""Published OpenVLA checkpoints on disk: what their files say, without loading the weights."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vla import hub
from vla.errors import UserError

OFT = {
    "action_head*": "an action head that computes numbers",
    "noisy_action_projector*": "a diffusion head",
    "proprio_projector*": "a projector of the state",
    "vision_backbone--*": "a vision network steered by the instruction",
}
"""Files that OpenVLA-OFT writes beside the weights -> what is in them."""


def is_openvla(folder: str | Path) -> bool:
    """Whether the folder has the configuration of an OpenVLA model."""
    return _json(Path(folder) / "config.json").get("model_type") == "openvla"


def is_published(folder: str | Path) -> bool:
    """Whether the folder is a checkpoint as OpenVLA publishes them; an export of ours has a contract."""
    return is_openvla(folder) and not (Path(folder) / "contract.json").is_file()


def check_not_oft(folder: str | Path, name: str = "") -> None:
    """Raises UserError if the folder is a checkpoint of OpenVLA-OFT, naming the parts that we do not have.

    Args:
        name: its name on the hub, if it is from there: these parts are pickled and are not fetched.
    """
    there = sorted(path.name for path in Path(folder).glob("*"))
    if is_openvla(folder):
        there += hub.file_names(name)
    found = {kind: [file for file in there if fnmatch(file, kind)] for kind in OFT}
    parts = [f"{OFT[kind]} ({files[0]})" for kind, files in found.items() if files]
    if parts:
        raise UserError(
            f"an OpenVLA-OFT checkpoint: it has {', '.join(parts)}, and writes no action tokens",
            name or str(folder),
            "serve it with OpenVLA-OFT's own deploy.py and give --policy openvla+http://…, or name an OpenVLA checkpoint",
        )


def settings_of(folder: str | Path, name: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json, and the statistics by data set.

    A fine-tuned checkpoint has its statistics in dataset_statistics.json, which replace those of config.json, as in OpenVLA.

    Args:
        name: as of `check_not_oft`.

    Raises:
        UserError: it is of OpenVLA-OFT, or has no statistics.
    """
    check_not_oft(folder, name)
    config = _json(Path(folder) / "config.json")
    statistics = _json(Path(folder) / "dataset_statistics.json") or config.get("norm_stats") or {}
    if not isinstance(statistics, dict) or not statistics:
        raise UserError("it has no action statistics", str(folder), "add the dataset_statistics.json of its training")
    return config, statistics


def _json(path: Path) -> dict[str, Any]:
    """The content of a file; {} if it is not there."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"not JSON: {error}", str(path), "download it again") from error
    return content if isinstance(content, dict) else {}

"""The card of an export: what it is, what it was trained on, how well it does, how it was made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.report import records
from vla.report.intervals import Rate
from vla.report.provenance import provenance
from vla.report.summary import summarise

NOT_EVALUATED = "| Success | not evaluated: `vla export --results FOLDER` puts an evaluation here |"


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card tells beside the contract; None and empty are "not known".

    Attributes:
        data: of each source, its weight and what else its configuration says.
        share: of robot samples in a batch.
        success: kind of instruction -> rate with interval.
        suite: on which that was measured.
        made: command, commit, versions, machine.
        lora, merged_difference: the adapters that were merged, and how far that moved a logit.
        base, base_hash, alpha: what training began with, and the trained weights' part of the average.
        weights, parameters, dtype: of what was written.
    """

    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    share: Any = None
    success: dict[str, str] = dataclasses.field(default_factory=dict)
    suite: str = ""
    made: dict[str, Any] = dataclasses.field(default_factory=dict)
    lora: dict[str, Any] = dataclasses.field(default_factory=dict)
    merged_difference: float | None = None
    base: str = ""
    base_hash: str = ""
    alpha: float = 1.0
    weights: str = ""
    parameters: int = 0
    dtype: str = "float32"


def facts_of(ckpt: str, results: str, contract: PolicyContract) -> dict[str, Any]:
    """What the run's configuration and an evaluation say: fields of `Card`.

    Raises:
        UserError: the evaluation is of another contract.
    """
    facts: dict[str, Any] = {"made": {**provenance(), "checkpoint": Path(ckpt).name}}
    config = Path(ckpt).resolve().parents[1] / "logs" / "config.yaml"
    if config.is_file():
        told = yaml.safe_load(config.read_text(encoding="utf-8")).get("data") or {}
        told = told.get("init_args", told)
        facts |= {
            "data": {name: _source(one) for name, one in (told.get("sources") or {}).items()},
            "share": told.get("robot_share"),
        }
    if results:
        record = records.load(results)
        if record.contract != contract.hash:
            raise UserError(
                f"the evaluation is of contract {record.contract}, this is {contract.hash}", results, "evaluate this one"
            )
        kinds = summarise(record.episodes)["kinds"]
        facts |= {"suite": record.suite, "success": {kind: str(Rate(**rates["success"])) for kind, rates in kinds.items()}}
    return facts


def _source(told: Any) -> dict[str, Any]:
    """A source's settings; of its folder the last part, for a path is its machine's."""
    settings = dict(told.get("init_args", told)) if isinstance(told, dict) else {}
    return {
        name: Path(value).name if name in ("path", "folder", "root") and isinstance(value, str) else value
        for name, value in settings.items()
        if value is not None
    }


def model_card(contract: PolicyContract, card: Card) -> str:
    """The card as Markdown."""
    body = contract.embodiment()
    cameras = ", ".join(f"{c.name} ({c.width} x {c.height})" for c in body.cameras)
    units = zip(body.action.names, body.action.units, strict=True)
    actions = ", ".join(f"{name} ({unit})" if unit else name for name, unit in units)
    lines = [
        "---",
        "license: other",
        "pipeline_tag: robotics",
        "tags: [vision-language-action]",
        "---",
        f"# {contract.title or 'A vision-language-action policy'}",
        "",
        "```sh",
        "vla serve THIS_FOLDER",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| Contract | `{contract.hash}` |",
        f"| Weights | `{card.weights}`, {card.parameters:,} parameters, {card.dtype} |",
        f"| Sees | {cameras}, upright RGB |",
        f"| Does | {actions}; chunks of {contract.chunk} at {body.control_hz:g} Hz, {contract.execute} executed |",
        decodes(contract),
        f"| Robots | {', '.join(contract.embodiments)} |",
    ]
    if card.success:
        rates = "; ".join(f"{kind} instruction {rate}" for kind, rate in card.success.items())
        lines.append(f"| Success on {card.suite}, 95 % interval | {rates} |")
    else:
        lines.append(NOT_EVALUATED)
    if card.base_hash:
        lines.append(f"| Base | {card.base or 'frozen weights'} `{card.base_hash}` |")
    if card.alpha < 1:
        lines.append(f"| Averaged | base + {card.alpha:g} (trained - base) |")
    if card.lora:
        moved = f"logits moved by {card.merged_difference:.1g} of the largest"
        lines.append(f"| Adapters | rank {card.lora['rank']}, merged in float32, {moved} |")
    lines += ["", "## Data", ""]
    lines += [f"- {name}: {', '.join(f'{k} {v}' for k, v in one.items())}" for name, one in card.data.items()] or ["Not known."]
    if card.share is not None:
        lines.append(f"\nRobot samples: {card.share} of a batch.")
    lines += ["", "## How it was made", ""]
    made = {**card.made, **card.made.get("versions", {})}
    made.pop("versions", None)
    lines += [f"- {name}: {value}" for name, value in made.items()] or ["Not known."]
    return "\n".join(lines) + "\n"


def decodes(contract: PolicyContract) -> str:
    """The card's row about decoding."""
    return f"| Decodes | ordinal tokens by the {contract.decode} of their distribution |"


def copied_card(card: str, before: PolicyContract, now: PolicyContract) -> str:
    """The card of a copy that differs in `decode` alone. What was measured was measured of the original, so it is left out."""
    lines = []
    for line in card.splitlines():
        if line.startswith("| Contract |"):
            copy = f"| Copy of | contract `{before.hash}`, which decodes by the {before.decode} |"
            lines += [f"| Contract | `{now.hash}` |", copy, decodes(now)]
        elif line.startswith("| Success"):
            lines.append(NOT_EVALUATED)
        elif not line.startswith(("| Copy of |", "| Decodes |")):
            lines.append(line)
    return "\n".join(lines) + "\n"

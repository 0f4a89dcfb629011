"""The model card of an export: what it is, what it was trained on, how well it does, how it was made."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pydoc
import re
from pathlib import Path
from typing import Any

import yaml

from vla import hub
from vla.contract import PolicyContract
from vla.errors import UserError
from vla.report import records
from vla.report.intervals import Rate
from vla.report.learning import kind_of
from vla.report.offline import KIND as OFFLINE
from vla.report.offline import OfflineRecord, held_out, load_offline
from vla.report.provenance import provenance
from vla.report.summary import summarise

NOT_EVALUATED = "| Success | not evaluated: `vla export --results FOLDER` puts an evaluation here |"


@dataclasses.dataclass(frozen=True)
class Card:
    """The content of a card besides the contract; None and empty mean "not known".

    Attributes:
        data: source -> its settings in the configuration.
        share: share of robot samples in a batch, or the name of one of RT-2's.
        success: kind of instruction -> rate with interval.
        suite: the suite on which this was measured.
        held_out: errors on held-out demonstrations, in a sentence.
        made: command, commit, versions, machine.
        lora, merged_difference: the adapters, and how far merging moved a logit.
        apart: whether the export has the adapters alone.
        trained_from: the model on the hub that training began with, with its commit; "" is another.
        license: that model's license; "" is not known.
        base, base_hash, alpha: the model that training began with, and the trained weights' share of the average.
        weights, parameters, dtype: hash, number and type of the written weights.
    """

    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    share: float | str | None = None
    success: dict[str, str] = dataclasses.field(default_factory=dict)
    suite: str = ""
    held_out: str = ""
    made: dict[str, Any] = dataclasses.field(default_factory=dict)
    lora: dict[str, Any] = dataclasses.field(default_factory=dict)
    merged_difference: float | None = None
    apart: bool = False
    trained_from: str = ""
    license: str = ""
    base: str = ""
    base_hash: str = ""
    alpha: float = 1.0
    weights: str = ""
    parameters: int = 0
    dtype: str = "float32"


def facts_of(ckpt: str, checkpoint: dict[str, Any], results: str, contract: PolicyContract) -> dict[str, Any]:
    """The fields of `Card` that a checkpoint and an evaluation give: the command is that of the training.

    Raises:
        UserError: the evaluation is not of this contract, or not with its `execute`.
    """
    now, facts = provenance(), dict(checkpoint.get("made", {}))
    config = Path(ckpt).resolve().parents[1] / "logs" / "config.yaml"
    if not facts and config.is_file():
        # A checkpoint of an earlier version.
        facts = mixture_of(yaml.safe_load(config.read_text(encoding="utf-8")).get("data") or {})
    exported = {"checkpoint": Path(ckpt).name, "exported by": f"{now['command']}, commit {now['commit']}"}
    facts["made"] = {**facts.get("made", {}), **exported}
    return facts | (_measured(results, contract) if results else {})


def _measured(results: str, contract: PolicyContract) -> dict[str, Any]:
    """The fields of `Card` that an evaluation of `vla rollout` or `vla evaluate` gives."""
    offline = kind_of(results) == OFFLINE
    record = load_offline(results) if offline else records.load(results)
    known = {**record.more, **vars(record)}
    decode = known.get("decode") or known.get("contract_settings", {}).get("decode", contract.decode)
    if decode != contract.decode:
        raise UserError(f"decoded by the {decode}; this export decodes by the {contract.decode}", results, "evaluate this one")
    if record.contract != contract.hash:
        raise UserError(f"the evaluation is of contract {record.contract}, this is {contract.hash}", results, "evaluate this one")
    if known.get("execute") not in (None, 0, contract.execute):
        what = f"{known['execute']} actions were executed of each chunk; this export executes {contract.execute}"
        raise UserError(what, results, "evaluate without --execute")
    if isinstance(record, OfflineRecord):
        return {"held_out": f"{record.data['title']}: {held_out(record.summary)}"}
    kinds = summarise(record.episodes)["kinds"]
    return {"suite": record.suite, "success": {kind: str(Rate(**rates["success"])) for kind, rates in kinds.items()}}


def made_of(data: dict[str, Any], vlm: Any = "") -> dict[str, Any]:
    """What a checkpoint says of its training: the fields of `Card` about data and mixture, and `made`, as plain JSON types.

    Args:
        data: the configuration's `data` section.
        vlm: the configuration's `model.vlm`.
    """
    return json.loads(json.dumps({**mixture_of(data, vlm), "made": provenance()}, default=str))


def mixture_of(data: dict[str, Any], vlm: Any = "") -> dict[str, Any]:
    """The fields of `Card` that the `data` section of a configuration and its `model.vlm` give."""
    data = data.get("init_args", data)
    sources = {name: _settings(source) for name, source in (data.get("sources") or {}).items()}
    return {"data": sources, "share": data.get("robot_share"), **_start(vlm)}


def _start(vlm: Any) -> dict[str, str]:
    """The fields of `Card` about the model on the hub that training began with, if it did."""
    if not isinstance(vlm, str) or not hub.policy_address(vlm):
        return {}
    readme = hub.local(vlm, hub.DESCRIPTIONS) / "README.md"
    head = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8") if readme.is_file() else "", re.DOTALL)
    known: dict[str, Any] = {}
    with contextlib.suppress(yaml.YAMLError):
        known = yaml.safe_load(head[1]) if head else {}
    license = known.get("license") if isinstance(known, dict) else ""
    return {"trained_from": hub.pinned_policy(vlm), "license": str(license or "")}


def _settings(source: dict[str, Any] | None) -> dict[str, Any]:
    """A source's kind and settings; of its folder only what a record says, since the whole path belongs to a machine."""
    source = source if isinstance(source, dict) else {}
    settings = dict(source.get("init_args", source))
    with contextlib.suppress(pydoc.ErrorDuringImport):
        settings["kind"] = getattr(pydoc.locate(str(source.get("class_path"))), "kind", None)
    return {
        name: hub.recorded(value) if name in ("path", "folder", "root") and isinstance(value, str) else value
        for name, value in settings.items()
        if value is not None
    }


def model_card(contract: PolicyContract, card: Card) -> str:
    """The card as Markdown."""
    embodiment = contract.embodiment()
    cameras = ", ".join(f"{c.name} ({c.width} x {c.height})" for c in embodiment.cameras)
    units = zip(embodiment.action.names, embodiment.action.units, strict=True)
    actions = ", ".join(f"{name} ({unit})" if unit else name for name, unit in units)
    lines = [
        "---",
        *yaml.safe_dump(_front_matter(card), sort_keys=False, default_flow_style=None).splitlines(),
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
        f"| Does | {actions}; chunks of {contract.chunk} at {embodiment.control_hz:g} Hz, {contract.execute} executed |",
        decodes(contract),
        f"| Robots | {', '.join(contract.embodiments)} |",
    ]
    if card.success:
        rates = "; ".join(f"{kind} instruction {rate}" for kind, rate in card.success.items())
        lines.append(f"| Success on {card.suite}, 95 % interval | {rates} |")
    else:
        lines.append(NOT_EVALUATED)
    if card.held_out:
        lines.append(f"| Held-out demonstrations | {card.held_out} |")
    if card.trained_from:
        lines.append(f"| Trained from | `{card.trained_from}` |")
    if card.base_hash:
        lines.append(f"| Base | {card.base or 'frozen weights'} `{card.base_hash}` |")
    if card.alpha < 1:
        lines.append(f"| Averaged | base + {card.alpha:g} (trained - base) |")
    if card.lora:
        moved = f"logits moved by {card.merged_difference:.1g} of the largest"
        how = "apart, added to the base when it is loaded" if card.apart else f"merged in float32, {moved}"
        lines.append(f"| Adapters | rank {card.lora['rank']}, {how} |")
    lines += ["", "## Data", ""]
    given = {name: {k: v for k, v in one.items() if v not in ("", [], {})} for name, one in card.data.items()}
    lines += [f"- {name}: {', '.join(f'{k} {v}' for k, v in one.items())}" for name, one in given.items()] or ["Not known."]
    if card.share is not None:
        lines.append(f"\nRobot samples: {card.share} of a batch.")
    lines += ["", "## How it was made", ""]
    made = {**card.made, **card.made.get("versions", {})}
    made.pop("versions", None)
    lines += [f"- {name}: {value}" for name, value in made.items()] or ["Not known."]
    return "\n".join(lines) + "\n"


def _front_matter(card: Card) -> dict[str, Any]:
    """What the hub reads of a card."""
    data = [found for one in card.data.values() if (found := hub.address(one.get("folder", "")))]
    base = hub.policy_address(card.trained_from)
    known = {
        "license": card.license,
        "base_model": base.repo if base else "",
        "datasets": sorted({found.repo for found in data if found.kind == "dataset"}),
    }
    tags = ["vision-language-action", "robotics"]
    return {"library_name": "vla", "pipeline_tag": "robotics", "tags": tags, **{k: v for k, v in known.items() if v}}


def decodes(contract: PolicyContract) -> str:
    """The card's row about decoding."""
    return f"| Decodes | ordinal tokens by the {contract.decode} of their distribution |"


def copied_card(card: str, before: PolicyContract, now: PolicyContract) -> str:
    """The card of a copy that differs only in `decode`. What was measured on the original is left out."""
    lines = []
    for line in card.splitlines():
        if line.startswith("| Contract |"):
            copy = f"| Copy of | contract `{before.hash}`, which decodes by the {before.decode} |"
            lines += [f"| Contract | `{now.hash}` |", copy, decodes(now)]
        elif line.startswith("| Success"):
            lines.append(NOT_EVALUATED)
        elif line.startswith("| Held-out"):
            lines.append("| Held-out demonstrations | not measured with this decoding: `vla evaluate` does |")
        elif not line.startswith(("| Copy of |", "| Decodes |")):
            lines.append(line)
    return "\n".join(lines) + "\n"

"""Writes report.html of one evaluation: rates by variation and instruction, language use, failures, videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.report.html import facts, track_percent, write_page
from vla.report.intervals import Rate, percent
from vla.report.records import Record
from vla.report.settings import other_execute

WITH_GOAL = {
    "correct": ("Correct instruction", "the goal that it names was reached first"),
    "swapped": ("Swapped instruction", "the other goal, which it names, was reached first"),
}
WITHOUT_GOAL = {
    "empty": ("Empty instruction", "something was done anyway"),
    "nonsense": ("Nonsense instruction", "something was done anyway"),
}


def write_evaluation(folder: Path, record: Record, videos: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Writes report.html beside results.json.

    Args:
        record: the record as `vla rollout --out` saves it, with its summary.
        videos: dicts with "path" (relative to the folder), "title" and optionally "outcome", "note" and "wide".
    """
    summary, run = record.more["summary"], record.more["run"]
    kinds = list(summary["kinds"])
    return write_page(
        folder / "report.html",
        "evaluation.html",
        title=f"{record.policy} on {record.suite}",
        headline=_headline(record),
        notes=_notes(record),
        groups=_groups(summary["groups"]),
        language=_language(summary["language_use"]),
        recognised=_recognised(summary["groups"]),
        kinds=kinds,
        failures=_failures(summary["groups"], kinds),
        videos=videos,
        facts={
            "Suite": f"{record.suite}, {record.suite_hash}",
            **_conditions(record),
            "Policy": record.policy,
            "Contract": record.contract or "none",
            "Weights": record.more.get("weights") or "unknown",
            **_decoding(record),
            "Batch": " × ".join(map(str, record.batch)) or "not fixed",
            "Time": f"{run['episode_seconds'] / 60:.1f} min, summed over {len(record.episodes)} episodes",
            "Worker restarts": f"{len(run['restarts'])}" + "".join(f"; {line}" for line in run["restarts"][:5]),
            **facts({**run, "versions": record.versions}),
        },
    )


def _conditions(record: Record) -> dict[str, str]:
    """How the episodes were run, where the simulator says it."""
    rows = {
        f"{variation}: " * (len(record.more["conditions"]) > 1) + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in one.items())
        for variation, one in record.more.get("conditions", {}).items()
    }
    return {"Conditions": "; ".join(sorted(rows))} if rows else {}


def _headline(record: Record) -> str:
    correct = [e for e in record.episodes if e.kind == "correct"]
    if not correct:
        return f"{len(record.episodes)} control episodes"
    return f"The robot did what it was told in {sum(e.success for e in correct)} of {len(correct)} episodes"


def _notes(record: Record) -> list[str]:
    about = record.more.get("about", "")
    notes = [f"{record.suite}: {about}."] if about else []
    use = record.more["summary"]["language_use"]["all"]
    if use:
        notes.append(
            f"Language use {_points(use['rate'])} ({_points(use['low'])} to {_points(use['high'])}): "
            + (
                "the instruction changes what the robot does."
                if use["low"] > 0
                else "these episodes do not show that the instruction has an effect."
            )
        )
    if share := record.more["summary"].get("malformed"):
        notes.append(f"At {100 * share:.2g} % of the steps the policy's answer was malformed, and the robot did not move.")
    if other := other_execute(record):
        notes.append(f"Not as the policy is exported: {other}.")
    return notes


def _decoding(record: Record) -> dict[str, str]:
    settings = record.more.get("contract_settings")
    return {"Decoding": f"{settings['decode']}, {record.more['execute']} actions executed of each chunk"} if settings else {}


def _points(share: float) -> str:
    return f"{100 * share:+.0f} points"


def _row(name: str, meaning: str, rate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "meaning": meaning,
        "value": f"{percent(rate['rate'])} %",
        "at": track_percent(rate["rate"]),
        "low": track_percent(rate["low"]),
        "high": track_percent(rate["high"]),
        "interval": f"{percent(rate['low'])} to {percent(rate['high'])} %",
        "n": rate["n"],
    }


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    by_variation: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        rows = by_variation.setdefault(f"{group['task']}: {group['variation']}", [])
        if group["kind"] in WITHOUT_GOAL:
            rows.append(_row(*WITHOUT_GOAL[group["kind"]], group["execution"]))
        else:
            rows.append(_row(*WITH_GOAL.get(group["kind"], (group["kind"], "success")), group["success"]))
    return [{"name": name, "rows": rows} for name, rows in by_variation.items()]


def _language(use: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for one in use["groups"]:
        row = _row(one["variation"], one["task"], one)
        # The track goes from -1 to 1.
        positions = {key: track_percent((one[name] + 1) / 2) for key, name in (("at", "rate"), ("low", "low"), ("high", "high"))}
        texts = {"value": _points(one["rate"]), "interval": f"{100 * one['low']:+.0f} to {_points(one['high'])}"}
        rows.append({**row, **positions, **texts})
    return rows


def _recognised(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns rows of cells: scenes, instruction, how often anything was done, how often of those the right thing."""
    return [
        [f"{g['task']}: {g['variation']}", g["kind"], *(str(Rate(**g[name])) for name in ("execution", "recognition"))]
        for g in groups
        if g["kind"] in WITH_GOAL
    ]


def _failures(groups: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[dict[str, Any]]:
    names = sorted({name for group in groups for name in group["failures"]})
    counts = [(name, [(g["kind"], g["failures"].get(name, 0)) for g in groups]) for name in names]
    # Not classes of failure: such an episode may still have succeeded, or failed in another way.
    for key, name in (("wrong_task", "another task's goal"), ("malformed", "a malformed answer")):
        having = [g for g in groups if key in g]
        if any(g[key]["rate"] for g in having):
            counts.append((name, [(g["kind"], round(g[key]["rate"] * g[key]["n"])) for g in having]))
    return [
        {"name": name, "numbers": [sum(n for group_kind, n in by_group if group_kind == kind) for kind in kinds]}
        for name, by_group in counts
    ]

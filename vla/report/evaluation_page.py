"""report.html of one evaluation: rates by variation and instruction, language use, failures, videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.report.html import facts, place, write_page
from vla.report.intervals import Rate, percent
from vla.report.records import Record

NAMED = {
    "correct": ("The drawn goal asked for", "it was reached first"),
    "swapped": ("The other goal asked for", "that one was reached first"),
}
UNNAMED = {
    "empty": ("Nothing said", "something was done all the same"),
    "nonsense": ("Nonsense said", "something was done all the same"),
}


def write_evaluation(folder: Path, record: Record, videos: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Writes report.html beside results.json.

    Args:
        record: as `vla rollout --out` saves it, with its summary.
        videos: each {"path" (relative to the folder), "title", "outcome"?, "note"?, "wide"?}.
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
            "Policy": record.policy,
            "Contract": record.contract or "none",
            "Weights": record.more.get("weights") or "unknown",
            "Batch": " × ".join(map(str, record.batch)) or "as they come",
            "Time": f"{run['episode_seconds'] / 60:.1f} min, summed over {len(record.episodes)} episodes",
            "Restarts": f"{len(run['restarts'])}" + "".join(f"; {line}" for line in run["restarts"][:5]),
            **facts({**run, "versions": record.versions}),
        },
    )


def _headline(record: Record) -> str:
    correct = [e for e in record.episodes if e.kind == "correct"]
    if not correct:
        return f"{len(record.episodes)} episodes of controls"
    return f"The robot did what it was told in {sum(e.success for e in correct)} of {len(correct)} episodes"


def _notes(record: Record) -> list[str]:
    about = record.more.get("about", "")
    notes = [f"{record.suite}: {about}."] if about else []
    use = record.more["summary"]["language_use"]["all"]
    if use:
        sure = use["low"] > 0
        notes.append(
            f"Language use {_points(use['rate'])} ({_points(use['low'])} to {_points(use['high'])}): "
            + ("the instruction decides what is done." if sure else "these episodes do not show that the instruction is heard.")
        )
    if share := record.more["summary"].get("malformed"):
        notes.append(
            f"At {100 * share:.2g} % of the steps the policy's answer was no whole chunk of actions, and the robot rested."
        )
    return notes


def _points(share: float) -> str:
    return f"{100 * share:+.0f} points"


def _row(name: str, meaning: str, rate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "meaning": meaning,
        "value": f"{percent(rate['rate'])} %",
        "at": place(rate["rate"]),
        "low": place(rate["low"]),
        "high": place(rate["high"]),
        "interval": f"{percent(rate['low'])} to {percent(rate['high'])} %",
        "n": rate["n"],
    }


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        rows = found.setdefault(f"{group['task']}: {group['variation']}", [])
        if group["kind"] in UNNAMED:
            rows.append(_row(*UNNAMED[group["kind"]], group["execution"]))
        else:
            rows.append(_row(*NAMED.get(group["kind"], (group["kind"], "success")), group["success"]))
    return [{"name": name, "rows": rows} for name, rows in found.items()]


def _language(use: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for one in use["groups"]:
        row = _row(one["variation"], one["task"], one)
        # The track goes from -1 to 1.
        moved = {key: place((one[source] + 1) / 2) for key, source in (("at", "rate"), ("low", "low"), ("high", "high"))}
        shown = {"value": _points(one["rate"]), "interval": f"{100 * one['low']:+.0f} to {_points(one['high'])}"}
        rows.append({**row, **moved, **shown})
    return rows


def _recognised(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Cells: scenes, instruction, how often something was done, how often of those what was asked for."""
    return [
        [f"{g['task']}: {g['variation']}", g["kind"], *(str(Rate(**g[name])) for name in ("execution", "recognition"))]
        for g in groups
        if g["kind"] in NAMED
    ]


def _failures(groups: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[dict[str, Any]]:
    names = sorted({name for group in groups for name in group["failures"]})
    counts = [(name, [(g["kind"], g["failures"].get(name, 0)) for g in groups]) for name in names]
    if any(g["malformed"]["rate"] for g in groups):
        # No class of its own: such an episode may still have succeeded.
        malformed = [(g["kind"], round(g["malformed"]["rate"] * g["malformed"]["n"])) for g in groups]
        counts.append(("some answer malformed", malformed))
    return [{"name": name, "numbers": [sum(n for of, n in found if of == kind) for kind in kinds]} for name, found in counts]

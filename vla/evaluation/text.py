"""Summarises an evaluation in a few lines of text."""

from __future__ import annotations

from vla.report.intervals import Rate
from vla.report.records import Record
from vla.report.settings import other_execute


def outcome(record: Record) -> str:
    """Returns success by kind of instruction and by group, wrong tasks, language use, malformed answers, another `execute` and
    restarts, a line each."""
    summary = record.more["summary"]
    lines = []
    for kind, group in summary["kinds"].items():
        has_goal = kind in ("correct", "swapped")
        name, rate = ("success", group["success"]) if has_goal else ("anything done", group["execution"])
        lines.append(f"{kind} instruction: {name} {Rate(**rate)}")
    for group in summary["groups"] if len(summary["groups"]) > len(summary["kinds"]) else []:
        lines.append(f"  {group['task']}, {group['variation']}, {group['kind']}: {Rate(**group['success'])}")
    wrong = {kind: group["wrong_task"] for kind, group in summary["kinds"].items() if group.get("wrong_task", {}).get("rate")}
    lines += [f"another task's goal reached, {kind} instruction: {Rate(**rate)}" for kind, rate in wrong.items()]
    if use := summary["language_use"]["all"]:
        lines.append(f"language use: {100 * use['rate']:+.0f} points ({100 * use['low']:+.0f} to {100 * use['high']:+.0f})")
    if malformed := [episode.malformed for episode in record.episodes if episode.malformed]:
        lines.append(f"malformed answers: {sum(malformed)}, in {len(malformed)} episodes; the robot did not move at those steps")
    if other := other_execute(record):
        lines.append(f"not as the policy is exported: {other}")
    if restarts := record.more["run"]["restarts"]:
        lines.append(f"workers restarted: {len(restarts)} ({restarts[0]})")
    return "\n".join(lines)

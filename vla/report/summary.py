"""Summarises an evaluation's episodes: rates by task, variation and instruction, and use of the instruction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vla.report.intervals import wilson
from vla.report.proportions import Counts, difference
from vla.report.records import EpisodeRecord


def rates(episodes: Sequence[EpisodeRecord]) -> dict[str, dict[str, Any]]:
    """Returns success, wrong object, execution, recognition and malformed answers as rates with 95 % Wilson intervals, and the
    wrong task where other tasks' goals were noted.

    Recognition is a share of the executed episodes, every other rate a share of all episodes. Wrong task: another task's goal was
    reached, whatever the episode came to.
    """
    n, executed = len(episodes), [e for e in episodes if e.executed]
    noted = [e.other_tasks for e in episodes if e.other_tasks is not None]
    others = {"wrong_task": wilson(sum(map(bool, noted)), len(noted)).to_dict()} if noted else {}
    return {
        "success": wilson(sum(e.success for e in episodes), n).to_dict(),
        "wrong_object": wilson(sum(e.failure == "wrong object" for e in episodes), n).to_dict(),
        "execution": wilson(len(executed), n).to_dict(),
        "recognition": wilson(sum(e.first == e.target for e in executed), len(executed)).to_dict(),
        "malformed": wilson(sum(e.malformed > 0 for e in episodes), n).to_dict(),
        **others,
    }


def malformed(episodes: Iterable[EpisodeRecord]) -> float | None:
    """Returns the share of steps at which the answer was malformed and the robot did not move; None if not counted."""
    counted = [e for e in episodes if "malformed" in e.more]
    steps = sum(e.steps for e in counted)
    return sum(e.malformed for e in counted) / steps if steps else None


def language_use(episodes: Iterable[EpisodeRecord]) -> dict[str, Any] | None:
    """Returns the share doing A when asked for A minus the share doing A when asked for B, on the same scenes.

    1 means that the policy always follows the instruction, 0 that it ignores it. The interval is Newcombe's for paired shares.
    None if no scene has both instructions.
    """
    by_scene: dict[tuple[str, str, int], dict[str, EpisodeRecord]] = {}
    for episode in episodes:
        by_scene.setdefault((episode.task, episode.variation, episode.seed), {})[episode.kind] = episode
    pairs = [(kinds["correct"], kinds["swapped"]) for kinds in by_scene.values() if {"correct", "swapped"} <= kinds.keys()]
    if not pairs:
        return None
    named = np.array([a.first == a.target for a, _ in pairs])
    other = np.array([b.first == a.target for a, b in pairs])
    return difference(Counts.of(named, other)).to_dict()


def summarise(episodes: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Returns the `summary` of a record.

    Returns:
        "kinds": kind of instruction -> rates over all tasks and variations; "groups": for each (task, variation, kind) its rates
        and "failures", class -> number; "malformed": share of all steps; "language_use": over all episodes, and for each (task,
        variation) in which both instructions ran.
    """
    kinds: dict[str, list[EpisodeRecord]] = {}
    groups: dict[tuple[str, str, str], list[EpisodeRecord]] = {}
    variations: dict[tuple[str, str], list[EpisodeRecord]] = {}
    for episode in episodes:
        kinds.setdefault(episode.kind, []).append(episode)
        groups.setdefault((episode.task, episode.variation, episode.kind), []).append(episode)
        variations.setdefault((episode.task, episode.variation), []).append(episode)
    used = {key: use for key, some in variations.items() if (use := language_use(some))}
    return {
        "kinds": {kind: rates(some) for kind, some in kinds.items()},
        "groups": [
            {
                **dict(zip(("task", "variation", "kind"), key, strict=True)),
                **rates(some),
                "failures": dict(sorted(Counter(e.failure for e in some if e.failure).items())),
            }
            for key, some in groups.items()
        ],
        "malformed": malformed(episodes),
        "language_use": {
            "all": language_use(episodes),
            "groups": [{"task": task, "variation": variation, **use} for (task, variation), use in used.items()],
        },
    }

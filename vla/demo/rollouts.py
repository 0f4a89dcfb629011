"""The rollout stages: the policy on scenes not seen in training, with films of some episodes; and the scripted expert."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vla.evaluation.films import film_name
from vla.evaluation.run import Evaluation, evaluate
from vla.report.intervals import Rate, wilson
from vla.report.records import EpisodeRecord, Record
from vla.report.summary import rates
from vla.report.video import read_video, side_by_side, write_video
from vla.sim.episodes import Result
from vla.sim.registry import embodiment_of
from vla.sim.suites import Suite
from vla.sim.variation import SEEN

EXPERT_SCENES = 200
FILMED, SWAPPED_FILMED = 8, 2
FAILURES_FILMED = 2


def roll_out(export: Path, folder: Path, episodes: int, horizon: int) -> dict[str, Any]:
    """Rolls out with the correct instruction, half as often naming the other object, a quarter as often without an instruction.

    Writes an evaluation into `folder`/rollout.

    Returns:
        the rates of report.json, each with n and interval; "batch": rows of a call, on which actions depend; "videos".
    """
    counts = (episodes, max(episodes // 2, 1), max(episodes // 4, 1))
    suite = Suite("demo", ("lift",), (SEEN,), counts, horizon, ("correct", "swapped", "empty"))
    keys = {kind: [episode.key for episode in suite.all() if episode.kind == kind] for kind in suite.kinds}
    filmed, batch = frozenset([*keys["correct"][:FILMED], *keys["swapped"][:SWAPPED_FILMED]]), os.cpu_count() or 1
    options = Evaluation(str(export), suite, str(folder / "rollout"), batch=batch, film=filmed)
    record = _run(options, "rollout", sum(counts))
    correct, swapped, empty = ([e for e in record.episodes if e.kind == kind] for kind in suite.kinds)
    # Failures are known only afterwards. An episode that is run again for its film takes the same course.
    failed = [e.key for e in correct if not e.success and e.key not in filmed]
    failed = failed[: max(FAILURES_FILMED - sum(not e.success for e in correct[:FILMED]), 0)]
    if failed:
        _run(Evaluation(str(export), suite, options.out, batch=batch, film=filmed | set(failed)), "films", len(failed))
    # Without an instruction: how often the policy lifts the object that the correct instruction would name.
    uninstructed = wilson(sum(e.first == e.more["objects"][0] for e in empty), len(empty)).to_dict()
    results = {
        **rates(correct),
        "swapped_instruction": wilson(sum(e.success for e in swapped), len(swapped)).to_dict(),
        "empty_instruction": uninstructed,
    }
    text = f"success {Rate(**results['success'])}, wrong object {Rate(**results['wrong_object'])}"
    return {"said": text, **results, "batch": batch, "videos": _videos(folder, correct, swapped)}


def _videos(folder: Path, correct: list[EpisodeRecord], swapped: list[EpisodeRecord]) -> list[dict[str, Any]]:
    """Returns the films for the page: one scene under both instructions, three successes and some failures."""
    evaluation = folder / "rollout"
    filmed = [e for e in correct if (evaluation / film_name(e.key)).is_file()]
    chosen = [e for e in filmed if e.success][:3] + [e for e in filmed if not e.success][:FAILURES_FILMED]
    videos: list[dict[str, Any]] = [
        {
            "path": f"rollout/{film_name(e.key)}",
            "title": e.instruction,
            "note": e.failure,
            "outcome": "success" if e.success else "failure",
        }
        for e in chosen
    ]
    both = [(a, b) for a in filmed for b in swapped[:SWAPPED_FILMED] if a.seed == b.seed]
    if both:
        one, other = max(both, key=lambda pair: pair[0].success + pair[1].success)
        left, right = (list(read_video(evaluation / film_name(e.key))) for e in (one, other))
        path = write_video(
            evaluation / "videos/both-instructions.mp4", side_by_side(left, right), fps=embodiment_of(one.task)[1].control_hz
        )
        title = f"One scene, two instructions: {one.instruction} / {other.instruction}"
        videos.insert(0, {"path": f"rollout/videos/{path.name}", "title": title, "wide": True})
    return videos


def expert(folder: Path) -> dict[str, Any]:
    """Measures how often the scripted expert succeeds, with noise and rendering off."""
    suite = Suite("expert", ("lift",), (SEEN,), EXPERT_SCENES, kinds=("correct",))
    record = _run(Evaluation("expert", suite, str(folder / "expert")), "expert", EXPERT_SCENES)
    rate = wilson(sum(e.success for e in record.episodes), len(record.episodes))
    return {"said": str(rate), "rate": rate.to_dict()}


def _run(options: Evaluation, name: str, total: int) -> Record:
    with tqdm(total=total, desc=name, unit="episode") as bar:

        def progress(_: Result | None, done: int) -> None:
            bar.update(done - bar.n)

        return evaluate(options, progress)

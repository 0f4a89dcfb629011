"""The policy closed-loop on layouts never trained on, with films of some episodes; and the scripted expert."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vla.evaluation.films import captioned, film, rate
from vla.report.intervals import Rate, wilson
from vla.report.summary import rates
from vla.report.video import side_by_side, write_video
from vla.sim.rollout import Episode, Result, Workers, rollout

EXPERT_SCENES = 200
FILMED = 8
FAILURES_FILMED = 2


def evaluate(export: Path, folder: Path, episodes: int, horizon: int) -> dict[str, Any]:
    """Rolls out with the right instruction, half as often with the other object's, a quarter as often with none.

    Writes episodes.jsonl and videos/ into the folder.

    Returns:
        the rates of report.json, each with n and interval; "batch": rows of a call, on which actions depend; "videos".
    """
    from vla.policies.local import LocalPolicy

    todo = [Episode(i, "correct", video=i < FILMED, horizon=horizon) for i in range(episodes)]
    todo += [Episode(i, "swapped", video=i < 2, horizon=horizon) for i in range(max(episodes // 2, 1))]
    todo += [Episode(i, "empty", horizon=horizon) for i in range(max(episodes // 4, 1))]
    count = os.cpu_count() or 1
    policy = LocalPolicy.from_export(export, batch=count)
    with Workers(count) as workers, tqdm(total=len(todo), desc="rollout", unit="episode") as bar:
        results = rollout(policy, todo, workers, lambda _: _tick(bar))
        correct, swapped, empty = ([r for r in results if r.kind == k] for k in ("correct", "swapped", "empty"))
        # Failures are known afterwards only; an episode goes the same way again.
        missed = [r.seed for r in correct if not r.success and not r.frames]
        missed = missed[: max(FAILURES_FILMED - sum(not r.success for r in correct[:FILMED]), 0)]
        again = rollout(policy, [Episode(i, "correct", video=True, horizon=horizon) for i in missed], workers)
    (folder / "episodes.jsonl").write_text("".join(json.dumps(r.to_dict()) + "\n" for r in results))
    # Unsaid: how often the object is lifted that would have been named.
    unsaid = wilson(sum(r.first == r.objects[0] for r in empty), len(empty)).to_dict()
    found = {
        **rates(correct),
        "swapped_instruction": wilson(sum(r.success for r in swapped), len(swapped)).to_dict(),
        "empty_instruction": unsaid,
    }
    said = f"success {Rate(**found['success'])}, wrong object {Rate(**found['wrong_object'])}"
    return {"said": said, **found, "batch": count, "videos": _videos(folder, correct + again, swapped)}


def _videos(folder: Path, correct: list[Result], swapped: list[Result]) -> list[dict[str, Any]]:
    (folder / "videos").mkdir(exist_ok=True)
    filmed = [r for r in correct if r.frames]
    chosen = [r for r in filmed if r.success][:3] + [r for r in filmed if not r.success][:FAILURES_FILMED]
    videos = []
    for result in chosen:
        outcome = "success" if result.success else "failure"
        path = film(result, folder / "videos" / f"{outcome}-{result.seed}.mp4")
        videos.append({"path": f"videos/{path.name}", "title": result.instruction, "note": result.failure, "outcome": outcome})
    both = [(a, b) for a in filmed for b in swapped if b.frames and a.seed == b.seed]
    if both:
        one, other = max(both, key=lambda pair: pair[0].success + pair[1].success)
        frames = side_by_side(captioned(one), captioned(other))
        path = write_video(folder / "videos" / "both-instructions.mp4", frames, fps=rate(one))
        title = f"One scene, two instructions: {one.instruction} / {other.instruction}"
        videos.insert(0, {"path": f"videos/{path.name}", "title": title, "wide": True})
    return videos


def expert() -> dict[str, Any]:
    """How often the scripted expert succeeds, noise and rendering off."""
    with Workers() as workers, tqdm(total=EXPERT_SCENES, desc="expert", unit="episode") as bar:
        results = rollout(None, [Episode(i) for i in range(EXPERT_SCENES)], workers, lambda _: _tick(bar))
    success = wilson(sum(r.success for r in results), len(results))
    return {"said": str(success), "rate": success.to_dict()}


def _tick(bar: tqdm) -> None:
    bar.update()

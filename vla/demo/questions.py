"""Questions on held-out scenes, with the picture and with a blank one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla.report.intervals import mean, wilson
from vla.report.proportions import Counts, difference

if TYPE_CHECKING:
    from vla.policies.vqa_accuracy import AnsweredQuestion

BATCH = 16


def ask(export: Path, held_out: Path, folder: Path, per_type: int) -> dict[str, Any]:
    """Asks the policy, and keeps two questions of each type with their pictures in the folder, to be shown.

    Returns:
        "vqa": see `accuracies`; "samples": what is shown; "batch": rows of a call, on which answers depend.
    """
    from vla.datasets.questions import QuestionSource
    from vla.policies.local import LocalPolicy
    from vla.policies.vqa_accuracy import balanced, correct_by_type, vqa_answers

    policy = LocalPolicy.from_export(export, batch=BATCH)
    samples = balanced(QuestionSource(held_out), per_type)
    asked = vqa_answers(policy, samples)
    vqa = accuracies(correct_by_type(asked), correct_by_type(vqa_answers(policy, samples, blank=True)))
    said = f"{100 * vqa['accuracy']:.1f} % right, {100 * vqa['blank_accuracy']:.1f} % with a blank picture"
    return {"said": said, "vqa": vqa, "samples": _samples(asked, folder), "batch": BATCH}


def accuracies(seen: dict[str, np.ndarray], blank: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy over types and by type, each with n and its 95 % interval; questions are taken as independent.

    Args:
        seen: type -> whether each answer is right, bool [n].
        blank: the same questions in the same order without the picture.

    Returns:
        "accuracy" (the mean over types), "n", "low", "high"; "blank_accuracy" and "blank" (a rate) without the picture; "lead":
        the difference, paired by question; "types": type -> "accuracy", "n", "low", "high" and "blank".
    """
    with_picture = {kind: wilson(int(right.sum()), len(right)) for kind, right in seen.items()}
    without = {kind: wilson(int(right.sum()), len(right)) for kind, right in blank.items()}
    rate, other = mean([*with_picture.values()]), mean([*without.values()])
    lead = mean([difference(Counts.of(seen[kind], blank[kind])) for kind in seen])
    return {
        **_accuracy(rate.to_dict()),
        "blank_accuracy": other.rate,
        "blank": other.to_dict(),
        "lead": lead.to_dict(),
        "types": {k: {**_accuracy(with_picture[k].to_dict()), "blank": without[k].to_dict()} for k in sorted(seen)},
    }


def _accuracy(rate: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy": rate.pop("rate"), **rate}


def _samples(asked: list[AnsweredQuestion], folder: Path) -> list[dict[str, Any]]:
    from PIL import Image

    shown = folder / "questions"
    shown.mkdir(exist_ok=True)
    samples, seen = [], set()
    for kind in sorted({one.question.type for one in asked}):
        # The same picture may be asked several things: two different ones of a type, and others for each type.
        for one in _different([q for q in asked if q.question.type == kind], seen, 2):
            path = shown / f"{len(samples)}.png"
            Image.fromarray(np.concatenate(list(one.images.values()), 1)).save(path)
            place = one.question.point is not None
            samples.append(
                {
                    "image": str(path.relative_to(folder)),
                    "question": one.question.text + "?",
                    "answer": _place(one.answer.point) if place else one.answer.text,
                    "truth": _place(one.question.point) if place else one.question.answer[0],
                    "correct": one.correct,
                    "point": _left(one.answer.point) if place else None,
                    "truth_point": _left(one.question.point) if place else None,
                }
            )
    return samples


def _different(asked: list[AnsweredQuestion], seen: set[bytes], count: int) -> list[AnsweredQuestion]:
    """The first few whose first picture was not seen yet; adds them to what was seen."""
    chosen = []
    for one in asked:
        picture = next(iter(one.images.values())).tobytes()
        if len(chosen) < count and picture not in seen:
            seen.add(picture)
            chosen.append(one)
    return chosen


def _left(point: tuple[float, float] | None) -> tuple[float, float] | None:
    """A place of the first camera's picture in the picture of both."""
    return None if point is None else (point[0] / 2, point[1])


def _place(point: tuple[float, float] | None) -> str:
    return "no place" if point is None else f"({point[0]:.2f}, {point[1]:.2f})"

"""The stage that asks questions about held-out scenes, with the image and with a blank one."""

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
    """Asks the policy the questions, and saves two questions of each type with their images for the report.

    Returns:
        "vqa": see `accuracies`; "samples": the questions for the report; "batch": rows of a call, on which answers depend.
    """
    from vla.datasets.questions import QuestionSource
    from vla.policies.local import LocalPolicy
    from vla.policies.vqa_accuracy import balanced, correct_by_type, vqa_answers

    policy = LocalPolicy.from_export(export, batch=BATCH)
    samples = balanced(QuestionSource(held_out), per_type)
    asked = vqa_answers(policy, samples)
    vqa = accuracies(correct_by_type(asked), correct_by_type(vqa_answers(policy, samples, blank=True)))
    text = f"{100 * vqa['accuracy']:.1f} % correct, {100 * vqa['blank_accuracy']:.1f} % with a blank image"
    return {"said": text, "vqa": vqa, "samples": _samples(asked, folder), "batch": BATCH}


def accuracies(correct: dict[str, np.ndarray], blank: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the accuracy over all types and by type, each with n and its 95 % interval; questions count as independent.

    Args:
        correct: type -> whether each answer is correct, bool [n].
        blank: the same for the same questions, in the same order, with a blank image.

    Returns:
        "accuracy" (the mean over types), "n", "low", "high"; "blank_accuracy" and "blank" (a rate) with a blank image; "lead":
        the difference, paired by question; "types": type -> "accuracy", "n", "low", "high" and "blank".
    """
    with_image = {kind: wilson(int(right.sum()), len(right)) for kind, right in correct.items()}
    without = {kind: wilson(int(right.sum()), len(right)) for kind, right in blank.items()}
    rate, blank_rate = mean([*with_image.values()]), mean([*without.values()])
    lead = mean([difference(Counts.of(correct[kind], blank[kind])) for kind in correct])
    return {
        **_accuracy(rate.to_dict()),
        "blank_accuracy": blank_rate.rate,
        "blank": blank_rate.to_dict(),
        "lead": lead.to_dict(),
        "types": {k: {**_accuracy(with_image[k].to_dict()), "blank": without[k].to_dict()} for k in sorted(correct)},
    }


def _accuracy(rate: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy": rate.pop("rate"), **rate}


def _samples(asked: list[AnsweredQuestion], folder: Path) -> list[dict[str, Any]]:
    from PIL import Image

    image_folder = folder / "questions"
    image_folder.mkdir(exist_ok=True)
    samples, used_images = [], set()
    for kind in sorted({one.question.type for one in asked}):
        # An image has several questions; the report shows every image once.
        for one in _with_new_images([q for q in asked if q.question.type == kind], used_images, 2):
            path = image_folder / f"{len(samples)}.png"
            Image.fromarray(np.concatenate(list(one.images.values()), 1)).save(path)
            has_point = one.question.point is not None
            samples.append(
                {
                    "image": str(path.relative_to(folder)),
                    "question": one.question.text + "?",
                    "answer": _point_text(one.answer.point) if has_point else one.answer.text,
                    "truth": _point_text(one.question.point) if has_point else one.question.answer[0],
                    "correct": one.correct,
                    "point": _in_left_half(one.answer.point) if has_point else None,
                    "truth_point": _in_left_half(one.question.point) if has_point else None,
                }
            )
    return samples


def _with_new_images(asked: list[AnsweredQuestion], used: set[bytes], count: int) -> list[AnsweredQuestion]:
    """Returns the first `count` questions whose first image is not used yet, and adds their images to the used ones."""
    chosen = []
    for one in asked:
        image = next(iter(one.images.values())).tobytes()
        if len(chosen) < count and image not in used:
            used.add(image)
            chosen.append(one)
    return chosen


def _in_left_half(point: tuple[float, float] | None) -> tuple[float, float] | None:
    """Converts a point of the first camera's image to a point of both images side by side."""
    return None if point is None else (point[0] / 2, point[1])


def _point_text(point: tuple[float, float] | None) -> str:
    return "no point" if point is None else f"({point[0]:.2f}, {point[1]:.2f})"

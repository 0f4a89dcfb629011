"""The accuracy of a policy's answers to held-out questions, by type."""

from __future__ import annotations

from typing import Any

from vla.datasets.questions import QuestionSource
from vla.errors import UserError
from vla.policies.base import Policy
from vla.report.intervals import wilson

PER_TYPE = 50
"""Largest number of questions asked of each type."""


def question_accuracy(policy: Policy, source: QuestionSource, per_type: int = PER_TYPE) -> dict[str, dict[str, Any]]:
    """Asks the policy questions on held-out images.

    Args:
        policy: a model in this process.
        source: its `holdout` says which images are held out; types that it never draws are not asked.
        per_type: largest number of questions of each type.

    Returns:
        Type -> share of correct answers with `n` and its interval, as `summary["questions"]` of an offline evaluation has it.

    Raises:
        UserError: the policy answers no questions, or no held-out question has a single answer.
    """
    from vla.policies.local import LocalPolicy
    from vla.policies.vqa_accuracy import balanced, correct_by_type, vqa_answers

    if not isinstance(policy, LocalPolicy):
        raise UserError("the policy answers no questions", "--questions", "give an export or a checkpoint as policy")
    correct = correct_by_type(vqa_answers(policy, balanced(source.restricted("val"), per_type)))
    if not correct:
        raise UserError("no held-out question has a single answer", str(source.folder), "hold out more")
    return {kind or "any": wilson(int(right.sum()), len(right)).to_dict() for kind, right in sorted(correct.items())}

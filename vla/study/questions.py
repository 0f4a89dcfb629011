"""The questions that every cell of a study is asked, before and after its training."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla.datasets.questions import QuestionSource
from vla.datasets.sources import Source
from vla.datasets.stream import QuestionStream
from vla.errors import UserError
from vla.evaluation.offline.questions import PER_TYPE
from vla.report.study import Answers

if TYPE_CHECKING:
    from vla.contract import PolicyContract
    from vla.policies.local import LocalPolicy

BATCH = 16
"""Rows of a call, on which answers depend."""


def question_sets(folders: Sequence[str], arms: Sequence[Mapping[str, Source[Any]]]) -> dict[str, QuestionSource]:
    """Returns name -> images with questions that no arm trains on.

    Args:
        folders: the study's; none are those of all arms. Streams are left out: they have no end.
        arms: the sources of each arm. Of a folder that arms train on, the smallest share that one of them holds out is asked.
    """
    trained: dict[Path, list[QuestionSource]] = {}
    for source in (source for sources in arms for source in sources.values()):
        if isinstance(source, QuestionSource) and not isinstance(source, QuestionStream):
            trained.setdefault(Path(source.folder).resolve(), []).append(source)
    names = folders or list(dict.fromkeys(str(sources[0].folder) for sources in trained.values()))
    sets = {}
    for name in names:
        own = trained.get(Path(name).resolve(), [])
        types = own[0].types if own and all(source.types == own[0].types for source in own) else {}
        holdout = min((source.holdout for source in own), default=0.1)
        sets[name] = QuestionSource(name, split="val" if own else "all", holdout=holdout, types=types)
    return sets


def check_asked(sets: Mapping[str, QuestionSource], missing: Container[Path]) -> None:
    """Raises UserError if there are no questions in a folder; `missing` are folders that are still to be collected."""
    for source in sets.values():
        if Path(source.folder).resolve() not in missing and not len(source):
            raise UserError("there is no question", str(source.folder), "give a folder of images with questions")


def ask(export: Path, before: LocalPolicy | None, source: QuestionSource) -> Answers:
    """Asks the questions of an export, and of what its training began with.

    Args:
        before: the latter; None is not asked.

    Returns:
        Type of question -> "before" and "after": a digit for each question, 1 for a correct answer.

    Raises:
        UserError: no question has a single answer.
    """
    from vla.policies.local import LocalPolicy
    from vla.policies.vqa_accuracy import balanced, correct_by_type, vqa_answers

    samples = balanced(source, PER_TYPE)
    if not samples:
        raise UserError("no question has a single answer", str(source.folder), "hold out more, or ask other questions")
    answers = {}
    for when, policy in (("before", before), ("after", LocalPolicy.from_export(export, BATCH))):
        answers[when] = correct_by_type(vqa_answers(policy, samples)) if policy else {}
    return {
        kind: {when: "".join(str(int(one)) for one in answers[when].get(kind, ())) for when in answers}
        for kind in sorted(answers["after"])
    }


def beginning(settings: Mapping[str, Any], contract: PolicyContract) -> LocalPolicy | None:
    """Returns what a training begins with as a policy of its contract; None if its weights are random.

    Args:
        settings: the configuration's `model` section.
    """
    import torch

    from vla.models.load import load_vlm
    from vla.models.tiny.from_scratch import SHORT
    from vla.policies.local import LocalPolicy, default_device
    from vla.training.contract import add_tokens

    vlm = settings["vlm"]
    if not isinstance(vlm, str) or vlm in SHORT:
        return None
    model, processor = load_vlm(vlm, settings["trust_remote_code"], contract.history, dtype=torch.float32)
    add_tokens(contract, model, processor.tokenizer, True)  # type: ignore[attr-defined]
    return LocalPolicy(model.to(default_device()), processor, contract, BATCH)  # type: ignore[arg-type]

"""`vla evaluate`."""

from __future__ import annotations

import dataclasses
from typing import Any

from vla.datasets.open import open_dataset
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource, is_lerobot
from vla.errors import UserError
from vla.evaluation.offline.questions import question_accuracy
from vla.evaluation.offline.replay import BATCH
from vla.evaluation.offline.report import write
from vla.evaluation.offline.run import evaluate_with_progress
from vla.folders import check_writable
from vla.policies.base import DTypeOption
from vla.policies.load import load_policy
from vla.policies.trained_on import settings_for


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The policy, the data, and the output of an offline evaluation.

    Attributes:
        policy: an export's folder, OWNER/NAME on the hub, a checkpoint, the address of a server, or "random".
        data: folder of robot data: our shards, or a LeRobot data set; or hf://datasets/OWNER/NAME.
        out: folder for results.json, report.html and films; "" prints only.
        episodes: number of held-out episodes, evenly spaced; 0 is all.
        holdout: share of the episodes that is held out: the last ones, as in training. 0 takes the share of the training, or 0.1
            where the policy does not say it.
        card: conventions of a LeRobot data set, as in `vla data convert`.
        size: side to which a LeRobot data set's images are scaled; 0 scales them as the training did, if the policy says it.
        execute: actions executed of each chunk; 0 takes the contract's.
        batch: rows per call of a local model.
        dtype: in which a local model computes; float32 if it is not given.
        films: number of films, of the episodes with the largest errors.
        questions: folder of images with questions; those that the training held out are asked.
    """

    policy: str
    data: str
    out: str = ""
    episodes: int = 0
    holdout: float = 0.0
    card: str = ""
    size: int = 0
    execute: int = 0
    batch: int = BATCH
    dtype: DTypeOption = ""
    films: int = 2
    questions: str = ""

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("episodes", "size", "execute", "films")}
        if min(counts.values()) < 0 or self.batch < 1:
            given = ", ".join(f"{name} {value}" for name, value in {**counts, "batch": self.batch}.items())
            raise UserError(given, "vla evaluate", "give at least 0 each, and a batch of at least 1")
        if not 0 <= self.holdout < 1:
            raise UserError(f"holdout {self.holdout}", "--holdout", "give a share from 0 to 1")


def evaluate(chosen: Evaluate) -> str:
    """Compares a policy's decoded actions with held-out demonstrations, beside three baselines. It needs no simulator."""
    if chosen.out:
        check_writable(chosen.out)
    source = _open(chosen)
    robots = {source.card.embodiment: source.card.spec}
    policy = load_policy(chosen.policy, chosen.batch, robots, probabilities=True, execute=chosen.execute, dtype=chosen.dtype)
    questions = question_accuracy(policy, _open_questions(chosen)) if chosen.questions else None
    result = evaluate_with_progress(policy, chosen.policy, source, chosen.episodes, chosen.execute)
    if questions is not None:
        result.record.summary["questions"] = questions
    lines = [str(result)]
    if chosen.out:
        page = write(chosen.out, result, policy.contract, chosen.films)
        lines.append(f"\nrecord: {chosen.out}/results.json, page: {page}")
    return "\n".join(lines)


def _open(chosen: Evaluate) -> RobotSource:
    """Opens the data as the policy's training did."""
    trained, holdout = _settings(chosen, chosen.data, "episodes")
    if not is_lerobot(chosen.data):
        return open_dataset(chosen.data, chosen.card, chosen.size, holdout)
    size = chosen.size or (trained.get("height", 0), trained.get("width", 0))
    return open_dataset(chosen.data, chosen.card or trained.get("conventions", ""), size, holdout)


def _open_questions(chosen: Evaluate) -> QuestionSource:
    trained, holdout = _settings(chosen, chosen.questions, "images")
    return QuestionSource(chosen.questions, holdout=holdout, types=trained.get("types"))


def _settings(chosen: Evaluate, data: str, parts: str) -> tuple[dict[str, Any], float]:
    """What the policy says of its training on this data, and the share that is held out."""
    trained = settings_for(chosen.policy, data)
    if trained is None and not chosen.holdout and chosen.policy != "random":
        print(f"note: {chosen.policy} does not say that it was trained on {data}; the last 10 % of the {parts} are taken")
    trained = trained or {}
    return trained, chosen.holdout or trained.get("holdout", 0.1)

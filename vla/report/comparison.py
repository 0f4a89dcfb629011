"""What records of several policies say about each other."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.report.intervals import Rate, wilson
from vla.report.letters import holm, letters, tiers
from vla.report.pairing import Paired, pair
from vla.report.proportions import Counts, difference, episodes_needed, mcnemar
from vla.report.records import EpisodeRecord, Record
from vla.report.sequential import Sequential, sequential
from vla.report.summary import malformed

CORRECT = "correct"


@dataclasses.dataclass(frozen=True)
class PolicyResult:
    """One policy's part: how often it succeeded, why it failed, and its letters (shared ones are not separated).

    Attributes:
        left_out: episodes of its record that are not in every other one.
        malformed: share of the compared steps at which its answer was no whole chunk; None where nobody counted them.
    """

    name: str
    policy: str
    source: str
    contract: str | None
    batch: list[int]
    versions: dict[str, str]
    success: Rate
    failures: dict[str, int]
    letters: str
    left_out: int
    malformed: float | None


@dataclasses.dataclass(frozen=True)
class PairResult:
    """Two policies on the same episodes.

    Attributes:
        first, second: names.
        difference: first rate minus second, with its interval (not adjusted for several pairs).
        p, p_holm: McNemar's exact test, and the same adjusted for all pairs.
        separated: p_holm is at most alpha.
        sequential: the test that may be looked at after every episode; with several pairs each has its share of alpha.
        more_episodes: beyond those made, to separate the two with 80 % power at the observed rates; None where they are
            separated, or equal.
    """

    first: str
    second: str
    counts: Counts
    difference: Rate
    p: float
    p_holm: float
    separated: bool
    sequential: Sequential
    more_episodes: int | None


@dataclasses.dataclass(frozen=True)
class Group:
    """A part of the episodes: a task, a variation or a kind of instruction.

    Attributes:
        rates: of the policies in their order.
        difference: of two policies; None where there are more.
    """

    name: str
    rates: list[Rate]
    difference: Rate | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything that `vla compare` says.

    Attributes:
        kind: of the records.
        instruction: the kind of instruction whose episodes are compared; others are only in `groups["instruction"]`.
        episodes: compared, N.
        policies: in the order given.
        pairs: every two of them, in that order.
        ranking: tiers of names; within one, nobody is ranked, and a single tier is no ranking.
        groups: "task", "variation", "instruction" -> their parts.
    """

    kind: str
    suite: str
    suite_hash: str
    alpha: float
    instruction: str
    episodes: int
    policies: list[PolicyResult]
    pairs: list[PairResult]
    ranking: list[list[str]]
    groups: dict[str, list[Group]]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def compare_records(records: Sequence[Record], alpha: float = 0.05) -> Comparison:
    """Compares policies on the episodes that all of them ran.

    Raises:
        UserError: alpha outside (0, 1), or records that do not pair (see `pairing.pair`).
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha {alpha}", "compare", "give a number between 0 and 1, e.g. 0.05")
    paired = pair(records)
    kinds = list(dict.fromkeys(e.kind for e in paired.episodes[0]))
    instruction = CORRECT if CORRECT in kinds else kinds[0]
    success = paired.success(instruction)
    n = success.shape[1]
    wins = success.sum(1)
    pairs = _pairs(paired.names, success, alpha)
    numbers = {name: i for i, name in enumerate(paired.names)}
    apart = [(numbers[p.first], numbers[p.second]) for p in pairs if p.separated]
    order = sorted(range(len(records)), key=lambda i: -wins[i])
    rank = {policy: place for place, policy in enumerate(order)}
    display = letters(len(records), [(rank[i], rank[j]) for i, j in apart])
    policies = [
        PolicyResult(
            name=paired.names[i],
            policy=record.policy,
            source=record.source,
            contract=record.contract,
            batch=record.batch,
            versions=record.versions,
            success=wilson(int(wins[i]), n, 1 - alpha),
            failures=dict(Counter(e.failure or "not classified" for e in _of(paired, i, instruction) if not e.success)),
            letters=display[rank[i]],
            left_out=paired.left_out[i],
            malformed=malformed(_of(paired, i, instruction)),
        )
        for i, record in enumerate(paired.records)
    ]
    return Comparison(
        kind=records[0].kind,
        suite=records[0].suite,
        suite_hash=records[0].suite_hash,
        alpha=alpha,
        instruction=instruction,
        episodes=n,
        policies=policies,
        pairs=pairs,
        ranking=[[paired.names[i] for i in tier] for tier in tiers(order, apart)],
        groups={
            "task": _groups(paired, alpha, lambda e: e.task, instruction),
            "variation": _groups(paired, alpha, lambda e: f"{e.task} / {e.variation}", instruction),
            "instruction": _groups(paired, alpha, lambda e: e.kind),
        },
    )


def _of(paired: Paired, policy: int, kind: str) -> list[EpisodeRecord]:
    return [e for e in paired.episodes[policy] if e.kind == kind]


def _pairs(names: Sequence[str], success: np.ndarray, alpha: float) -> list[PairResult]:
    places = list(itertools.combinations(range(len(names)), 2))
    counts = [Counts.of(success[i], success[j]) for i, j in places]
    p_values = [mcnemar(c.first, c.second) for c in counts]
    share = alpha / len(places)
    answer = []
    for (i, j), c, p, p_holm in zip(places, counts, p_values, holm(p_values), strict=True):
        separated = p_holm <= alpha
        needed = None if separated else episodes_needed(c, share)
        steps = sequential(success[i].astype(int) - success[j], share)
        answer.append(
            PairResult(
                first=names[i],
                second=names[j],
                counts=c,
                difference=difference(c, 1 - alpha),
                p=p,
                p_holm=p_holm,
                separated=separated,
                sequential=dataclasses.replace(steps, p=min(1.0, len(places) * steps.p)),
                more_episodes=None if needed is None else max(1, needed - c.n),
            )
        )
    return answer


def _groups(paired: Paired, alpha: float, name: Callable[[EpisodeRecord], str], kind: str | None = None) -> list[Group]:
    members: dict[str, list[int]] = {}
    for place, episode in enumerate(paired.episodes[0]):
        if kind is None or episode.kind == kind:
            members.setdefault(name(episode), []).append(place)
    outcomes = np.array([[e.success for e in row] for row in paired.episodes], bool)
    answer = []
    for part in sorted(members):
        taken = outcomes[:, members[part]]
        rates = [wilson(int(row.sum()), len(row), 1 - alpha) for row in taken]
        two = difference(Counts.of(*taken), 1 - alpha) if len(taken) == 2 else None
        answer.append(Group(part, rates, two))
    return answer

"""Compares the records of several policies."""

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
from vla.report.settings import Settings, other_execute
from vla.report.summary import malformed

CORRECT = "correct"


@dataclasses.dataclass(frozen=True)
class PolicyResult:
    """One policy's results: its success rate, its failures, and its letters (policies that share one are not separated).

    Attributes:
        left_out: number of episodes of its record that are not in every other record.
        other_execute: how it was evaluated with another `execute` than its contract's; "" if it was not.
        malformed: share of the compared steps at which its answer was malformed; None if they were not counted.
    """

    name: str
    policy: str
    source: str
    success: Rate
    failures: dict[str, int]
    letters: str
    left_out: int
    malformed: float | None
    other_execute: str


@dataclasses.dataclass(frozen=True)
class PairResult:
    """Two policies on the same episodes.

    Attributes:
        first, second: names of the policies.
        difference: rate of the first minus rate of the second, with its interval (not adjusted for several pairs).
        p, p_holm: p-value of McNemar's exact test, and the same adjusted for all pairs.
        separated: whether p_holm is at most alpha.
        sequential: the test that may be read after every episode; several pairs share alpha equally.
        more_episodes: further episodes needed to separate the two with 80 % power at the observed rates; None if they are
            separated, or have equal rates.
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
        rates: the policies' rates, in their order.
        difference: difference of two policies; None if there are more.
    """

    name: str
    rates: list[Rate]
    difference: Rate | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `vla compare` for evaluations.

    Attributes:
        kind: kind of the records.
        instruction: the kind of instruction whose episodes are compared; others are only in `groups["instruction"]`.
        episodes: N, the number of episodes compared.
        policies: the policies in the given order.
        pairs: every pair of them, in that order.
        ranking: tiers of names, best first. Policies within a tier are not ranked; a single tier means no ranking.
        groups: "task", "variation" and "instruction", each with its parts.
        settings: how the policies were evaluated.
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
    settings: Settings

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def compare_records(records: Sequence[Record], alpha: float = 0.05) -> Comparison:
    """Compares policies on the episodes that all of them ran.

    Raises:
        UserError: alpha is outside (0, 1), or the records cannot be paired (see `pairing.pair`).
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha}", "compare", "give a number between 0 and 1, e.g. 0.05")
    paired = pair(records)
    kinds = list(dict.fromkeys(e.kind for e in paired.episodes[0]))
    instruction = CORRECT if CORRECT in kinds else kinds[0]
    success = paired.success(instruction)
    n = success.shape[1]
    wins = success.sum(1)
    pairs = _pairs(paired.names, success, alpha)
    numbers = {name: i for i, name in enumerate(paired.names)}
    separated = [(numbers[p.first], numbers[p.second]) for p in pairs if p.separated]
    order = sorted(range(len(records)), key=lambda i: -wins[i])
    ranks = {policy: rank for rank, policy in enumerate(order)}
    display = letters(len(records), [(ranks[i], ranks[j]) for i, j in separated])
    policies = [
        PolicyResult(
            name=paired.names[i],
            policy=record.policy,
            source=record.source,
            success=wilson(int(wins[i]), n, 1 - alpha),
            failures=dict(Counter(e.failure or "not classified" for e in _episodes(paired, i, instruction) if not e.success)),
            letters=display[ranks[i]],
            left_out=paired.left_out[i],
            malformed=malformed(_episodes(paired, i, instruction)),
            other_execute=other_execute(record),
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
        ranking=[[paired.names[i] for i in tier] for tier in tiers(order, separated)],
        groups={
            "task": _groups(paired, alpha, lambda e: e.task, instruction),
            "variation": _groups(paired, alpha, lambda e: f"{e.task} / {e.variation}", instruction),
            "instruction": _groups(paired, alpha, lambda e: e.kind),
        },
        settings=Settings.of(records),
    )


def _episodes(paired: Paired, policy: int, kind: str) -> list[EpisodeRecord]:
    return [e for e in paired.episodes[policy] if e.kind == kind]


def _pairs(names: Sequence[str], success: np.ndarray, alpha: float) -> list[PairResult]:
    indices = list(itertools.combinations(range(len(names)), 2))
    counts = [Counts.of(success[i], success[j]) for i, j in indices]
    p_values = [mcnemar(c.first, c.second) for c in counts]
    share = alpha / len(indices)
    results = []
    for (i, j), c, p, p_holm in zip(indices, counts, p_values, holm(p_values), strict=True):
        separated = p_holm <= alpha
        needed = None if separated else episodes_needed(c, share)
        test = sequential(success[i].astype(int) - success[j], share)
        results.append(
            PairResult(
                first=names[i],
                second=names[j],
                counts=c,
                difference=difference(c, 1 - alpha),
                p=p,
                p_holm=p_holm,
                separated=separated,
                sequential=dataclasses.replace(test, p=min(1.0, len(indices) * test.p)),
                more_episodes=None if needed is None else max(1, needed - c.n),
            )
        )
    return results


def _groups(paired: Paired, alpha: float, name: Callable[[EpisodeRecord], str], kind: str | None = None) -> list[Group]:
    members: dict[str, list[int]] = {}
    for index, episode in enumerate(paired.episodes[0]):
        if kind is None or episode.kind == kind:
            members.setdefault(name(episode), []).append(index)
    outcomes = np.array([[e.success for e in row] for row in paired.episodes], bool)
    groups = []
    for part in sorted(members):
        part_outcomes = outcomes[:, members[part]]
        rates = [wilson(int(row.sum()), len(row), 1 - alpha) for row in part_outcomes]
        apart = difference(Counts.of(*part_outcomes), 1 - alpha) if len(part_outcomes) == 2 else None
        groups.append(Group(part, rates, apart))
    return groups

"""Puts a comparison into sentences and plain tables, the same ones on the terminal and on the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vla.report.comparison import Comparison, Group, PairResult
from vla.report.intervals import Rate, percent
from vla.report.settings import Settings


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells under a header; the note explains the columns."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]


def verdict(c: Comparison) -> str:
    """Returns one sentence: the ranking as far as the data support one, or that they support none."""
    names = [name for tier in c.ranking for name in tier]
    if len(c.ranking) == 1:
        return (
            f"The data do not separate {_and(names)}" if len(names) == 2 else f"The data do not rank these {len(names)} policies"
        )
    if len(names) == 2:
        return f"{names[0]} is better than {names[1]}"
    return "Ranking: " + "; ".join(f"{rank}. {_and(tier)}" for rank, tier in enumerate(c.ranking, 1))


def sentences(c: Comparison) -> list[str]:
    """Returns the findings beside the verdict, most important first."""
    findings = []
    level = level_of(c)
    if len(c.pairs) == 1:
        (p,) = c.pairs
        findings.append(
            f"{p.first} minus {p.second}: {points(p.difference)} points ({level} % interval {span(p.difference)}). "
            f"Of {p.counts.n} episodes, only {p.first} succeeded in {p.counts.first} and only {p.second} in {p.counts.second}; "
            f"p {_p(p.p)} (McNemar's exact test)."
        )
        if not p.separated and p.difference.low * p.difference.high > 0:
            findings.append("The interval excludes zero, but the exact test, which decides, does not reject equal rates.")
        findings += [_more_episodes(p), _early_stop(p)]
    else:
        findings += _within_tiers(c)
        findings.append(
            f"All {len(c.pairs)} pairs were tested (McNemar's exact test with Holm's correction); policies that share a letter "
            "are not separated."
        )
    findings.append(
        "McNemar's p-value is valid only if the number of episodes was fixed in advance; to look at the results and stop early, "
        "use the always-valid p-value."
    )
    if c.instruction != "correct":
        findings.append(
            f"There are no episodes with the correct instruction; the comparison uses those with the {c.instruction!r} one."
        )
    left_out = [f"{p.left_out} of {p.name}" for p in c.policies if p.left_out]
    if left_out:
        findings.append(f"Episodes left out because not every record has them: {_and(left_out)}.")
    malformed = [f"{100 * p.malformed:.2g} % of the steps of {p.name}" for p in c.policies if p.malformed]
    if malformed:
        findings.append(f"Malformed answers, at which the robot did not move: {_and(malformed)}.")
    findings += [f"{p.name} was not evaluated as it is exported: {p.other_execute}." for p in c.policies if p.other_execute]
    findings.append(c.settings.sentence())
    return [sentence for sentence in findings if sentence]


def _more_episodes(p: PairResult) -> str:
    if p.separated:
        return ""
    if p.more_episodes is None:
        successes = p.counts.both + p.counts.first
        return f"Each succeeded in {successes} episodes: at equal rates, no number of episodes separates them."
    return (
        f"About {p.more_episodes:,} more episodes would be needed to separate the two with 80 % power, if their true rates are "
        "those observed here."
    )


def _early_stop(p: PairResult) -> str:
    p_value = f"(always-valid p {_p(p.sequential.p)})"
    if p.sequential.stop is None:
        return f"A test after every episode would not have stopped yet {p_value}."
    caveat = "" if p.separated else "; the verdict above is that of McNemar's test on all episodes"
    return f"A test after every episode could have stopped after {p.sequential.stop} of {p.counts.n} {p_value}{caveat}."


def _within_tiers(c: Comparison) -> list[str]:
    """Names the policies that are separated although no ranking follows."""
    tier_of = {name: rank for rank, tier in enumerate(c.ranking) for name in tier}
    pairs = [(p.first, p.second) if p.difference.rate > 0 else (p.second, p.first) for p in c.pairs if p.separated]
    inner = [f"{one} is better than {two}" for one, two in pairs if tier_of[one] == tier_of[two]]
    if not inner:
        several = any(len(tier) > 1 for tier in c.ranking)
        return ["Policies that share a rank are not separated."] if several and len(c.ranking) > 1 else []
    return [f"Separated, although no ranking follows from it: {_and(inner)}."]


def tables(c: Comparison) -> list[Table]:
    """Returns the tables that have rows: policies, differences, failures, and the parts of the suite."""
    level = level_of(c)
    best_first = sorted(c.policies, key=lambda p: -p.success.rate)
    result = [
        Table(
            "Policies",
            f"Success rate with its {level} % Wilson interval. Policies that share a letter are not separated.",
            ["policy", "letters", "episodes", "success"],
            [[p.name, p.letters, str(p.success.n), rate(p.success)] for p in best_first],
        )
    ]
    several = len(c.pairs) > 1
    result.append(
        Table(
            "Differences",
            f"In percentage points, with Newcombe's {level} % interval for paired rates. Only one succeeds: numbers of episodes "
            f"in which only the first, and only the second, succeeded. p: McNemar's exact test{', Holm-corrected' * several}. "
            "More needed: further episodes to separate the two with 80 % power at the observed rates.",
            ["first – second", "points", "only one succeeds", "p", "always-valid p", "could stop after", "more needed"],
            [
                [
                    f"{p.first} – {p.second}",
                    f"{points(p.difference)} ({span(p.difference)})",
                    f"{p.counts.first} : {p.counts.second}",
                    _p(p.p_holm, ""),
                    _p(p.sequential.p, ""),
                    "–" if p.sequential.stop is None else str(p.sequential.stop),
                    "separated" if p.separated else "–" if p.more_episodes is None else f"{p.more_episodes:,}",
                ]
                for p in c.pairs
            ],
        )
    )
    failures = sorted(
        {f for p in c.policies for f in p.failures}, key=lambda f: (-sum(p.failures.get(f, 0) for p in c.policies), f)
    )
    if failures:
        rows = [[failure, *(str(p.failures.get(failure, 0)) for p in c.policies)] for failure in failures]
        result.append(Table("Failures", "Failed episodes by class of failure.", ["failure", *(p.name for p in c.policies)], rows))
    if len(c.groups["task"]) > 1:
        result.append(_group_table("By task", c, c.groups["task"]))
    if len(c.groups["variation"]) > len(c.groups["task"]):
        result.append(_group_table("By variation", c, c.groups["variation"]))
    if len(c.groups["instruction"]) > 1:
        result.append(_group_table("By instruction", c, c.groups["instruction"]))
    return result + settings_table(c.settings, [p.name for p in c.policies])


def settings_table(settings: Settings, names: Sequence[str]) -> list[Table]:
    """Returns the table of the settings in which policies differ; none if they do not."""
    return [Table("Settings", "Those in which the policies differ.", ["", *names], settings.rows())] if settings.differ else []


def _group_table(title: str, c: Comparison, groups: Sequence[Group]) -> Table:
    header = [title.removeprefix("By "), "episodes", *(p.name for p in c.policies)]
    rows = [[g.name, str(g.rates[0].n), *(rate(r) for r in g.rates)] for g in groups]
    if len(c.policies) == 2:
        header.append("points")
        for row, group in zip(rows, groups, strict=True):
            assert group.difference is not None
            row.append(f"{points(group.difference)} ({span(group.difference)})")
    note = f"Each row has its own {level_of(c)} % interval; of many rows, some differ by chance."
    return Table(title, note, header, rows)


def text(c: Comparison) -> str:
    """Returns the whole comparison as text for a terminal."""
    head = (
        f"{c.suite} ({c.suite_hash[:12]}): {c.episodes} paired episodes, {c.instruction} instruction, {level_of(c)} % intervals"
    )
    blocks = [head, f"{verdict(c)}.", "\n".join(f"- {s}" for s in sentences(c))]
    blocks += [f"{table.title}\n{aligned(table)}" for table in tables(c)]
    return "\n\n".join([*blocks, *(f"{title}: {line}" for title, line in c.settings.facts().items())])


def aligned(table: Table) -> str:
    """Returns the table as text in aligned columns: the first to the left, the others to the right."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(table.header))]
    return "\n".join(
        "  " + "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def level_of(c: Comparison) -> str:
    """Returns the level of the intervals in per cent."""
    return f"{100 * (1 - c.alpha):g}"


def rate(r: Rate) -> str:
    """Returns a rate with its interval in per cent."""
    return f"{percent(r.rate)} % ({percent(r.low)} to {percent(r.high)})"


def points(difference: Rate) -> str:
    """Returns a difference in percentage points, with its sign."""
    return _signed(difference.rate)


def span(difference: Rate) -> str:
    """Returns the interval of a difference in percentage points."""
    return f"{_signed(difference.low)} to {_signed(difference.high)}"


def _signed(share: float) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    shown = f"{round(100 * share, 1) + 0.0:+.1f}"
    return "0.0" if shown == "+0.0" else shown


def _p(value: float, equals: str = "= ") -> str:
    return "< 0.0001" if value < 0.0001 else f"{equals}{value:.4f}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"

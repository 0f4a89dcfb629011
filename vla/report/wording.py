"""A comparison in words and plain tables, the same on the terminal and on the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vla.report.comparison import Comparison, Group, PairResult
from vla.report.intervals import Rate, percent


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells under a header; the note says how to read it."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]


def verdict(c: Comparison) -> str:
    """One sentence: the ranking as far as the data allow one, or that they allow none."""
    names = [name for tier in c.ranking for name in tier]
    if len(c.ranking) == 1:
        return (
            f"The data do not separate {_and(names)}" if len(names) == 2 else f"The data do not rank these {len(names)} policies"
        )
    if len(names) == 2:
        return f"{names[0]} is better than {names[1]}"
    return "Ranking: " + "; ".join(f"{place}. {_and(tier)}" for place, tier in enumerate(c.ranking, 1))


def sentences(c: Comparison) -> list[str]:
    """What else there is to say, most important first."""
    said = []
    level = level_of(c)
    if len(c.pairs) == 1:
        (p,) = c.pairs
        said.append(
            f"{p.first} minus {p.second}: {points(p.difference)} points ({level} % interval {span(p.difference)}). "
            f"Of {p.counts.n} episodes only {p.first} succeeded in {p.counts.first}, only {p.second} in {p.counts.second}: "
            f"p {_p(p.p)} (McNemar, exact)."
        )
        if not p.separated and p.difference.low * p.difference.high > 0:
            said.append("The interval leaves zero out, but the exact test, which decides, does not reject that they are equal.")
        said += [_more(p), _stop(p)]
    else:
        said += _within_tiers(c)
        said.append(
            f"All {len(c.pairs)} pairs were tested (McNemar, exact, Holm's correction); policies that share a letter are not "
            "separated."
        )
    said.append(
        "The p-value of McNemar's test holds for a number of episodes that was fixed beforehand; whoever looks on the way and "
        "stops when it suits needs the always-valid one."
    )
    if c.instruction != "correct":
        said.append(f"There are no episodes with the correct instruction; compared are those with kind {c.instruction!r}.")
    left = [f"{p.left_out} of {p.name}" for p in c.policies if p.left_out]
    if left:
        said.append(f"Episodes left out, because not every record has them: {_and(left)}.")
    rested = [f"{100 * p.malformed:.2g} % of the steps of {p.name}" for p in c.policies if p.malformed]
    if rested:
        said.append(f"Answers that were no whole chunk of actions, at which the robot rested: {_and(rested)}.")
    return [sentence for sentence in said + _differing(c) if sentence]


def _more(p: PairResult) -> str:
    if p.separated:
        return ""
    if p.more_episodes is None:
        return f"Both succeeded in {p.counts.both + p.counts.first}: at equal rates no number of episodes separates them."
    return (
        f"About {p.more_episodes:,} more episodes would be needed to separate the two with 80 % power, if their rates are "
        "what was seen here."
    )


def _stop(p: PairResult) -> str:
    p_value = f"(always-valid p {_p(p.sequential.p)})"
    if p.sequential.stop is None:
        return f"A test after every episode would not have stopped yet {p_value}."
    but = "" if p.separated else "; the verdict above is McNemar's, on all of them"
    return f"A test after every episode could have stopped after {p.sequential.stop} of {p.counts.n} {p_value}{but}."


def _within_tiers(c: Comparison) -> list[str]:
    """Who is separated although no ranking follows."""
    tier_of = {name: place for place, tier in enumerate(c.ranking) for name in tier}
    pairs = [(p.first, p.second) if p.difference.rate > 0 else (p.second, p.first) for p in c.pairs if p.separated]
    inner = [f"{one} is better than {two}" for one, two in pairs if tier_of[one] == tier_of[two]]
    if not inner:
        several = any(len(tier) > 1 for tier in c.ranking)
        return ["Policies named together are not separated."] if several and len(c.ranking) > 1 else []
    return [f"Separated, although no ranking follows from it: {_and(inner)}."]


def _differing(c: Comparison) -> list[str]:
    """Versions and batch shapes that differ between the records."""
    said = []
    for package in dict.fromkeys(name for p in c.policies for name in p.versions):
        found = [p.versions.get(package, "none") for p in c.policies]
        if len(set(found)) > 1:
            said.append(f"{package} {_and(list(dict.fromkeys(found)))}")
    shapes = [str(p.batch) for p in c.policies]
    if len(set(shapes)) > 1:
        said.append(f"batch shape {_and(list(dict.fromkeys(shapes)))}")
    return [f"The records differ in: {'; '.join(said)}."] if said else []


def tables(c: Comparison) -> list[Table]:
    """All tables that have something to say."""
    level = level_of(c)
    best_first = sorted(c.policies, key=lambda p: -p.success.rate)
    answer = [
        Table(
            "Policies",
            f"Success with its {level} % Wilson interval. Policies that share a letter are not separated.",
            ["policy", "letters", "episodes", "success"],
            [[p.name, p.letters, str(p.success.n), rate(p.success)] for p in best_first],
        )
    ]
    several = len(c.pairs) > 1
    answer.append(
        Table(
            "Differences",
            f"In points, with Newcombe's {level} % interval for paired rates. Only one succeeds: in how many episodes. "
            f"p: McNemar, exact{', Holm-corrected' if several else ''}. "
            "More: episodes to separate the two with 80 % power at the observed rates.",
            ["first – second", "points", "only one succeeds", "p", "always-valid p", "could stop after", "more"],
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
        answer.append(Table("Failures", "Episodes by class of failure.", ["failure", *(p.name for p in c.policies)], rows))
    if len(c.groups["task"]) > 1:
        answer.append(_group_table("By task", c, c.groups["task"]))
    if len(c.groups["variation"]) > len(c.groups["task"]):
        answer.append(_group_table("By variation", c, c.groups["variation"]))
    if len(c.groups["instruction"]) > 1:
        answer.append(_group_table("By instruction", c, c.groups["instruction"]))
    return answer


def _group_table(title: str, c: Comparison, groups: Sequence[Group]) -> Table:
    header = [title.removeprefix("By "), "episodes", *(p.name for p in c.policies)]
    rows = [[g.name, str(g.rates[0].n), *(rate(r) for r in g.rates)] for g in groups]
    if len(c.policies) == 2:
        header.append("points")
        for row, group in zip(rows, groups, strict=True):
            assert group.difference is not None
            row.append(f"{points(group.difference)} ({span(group.difference)})")
    note = f"{level_of(c)} % intervals of each row by itself: of many rows some differ by chance."
    return Table(title, note, header, rows)


def text(c: Comparison) -> str:
    """The whole comparison for a terminal."""
    head = (
        f"{c.suite} ({c.suite_hash[:12]}): {c.episodes} paired episodes, {c.instruction} instruction, {level_of(c)} % intervals"
    )
    blocks = [head, f"{verdict(c)}.", "\n".join(f"- {s}" for s in sentences(c))]
    return "\n\n".join([*blocks, *(f"{table.title}\n{aligned(table)}" for table in tables(c))])


def aligned(table: Table) -> str:
    """The table in columns of equal width, the first to the left and the others to the right."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(table.header))]
    return "\n".join(
        "  " + "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def level_of(c: Comparison) -> str:
    """The level of the intervals in per cent."""
    return f"{100 * (1 - c.alpha):g}"


def rate(r: Rate) -> str:
    """A rate with its interval in per cent."""
    return f"{percent(r.rate)} % ({percent(r.low)} to {percent(r.high)})"


def points(difference: Rate) -> str:
    """A difference in points, with its sign."""
    return _signed(difference.rate)


def span(difference: Rate) -> str:
    """The interval of a difference in points."""
    return f"{_signed(difference.low)} to {_signed(difference.high)}"


def _signed(share: float) -> str:
    # The sum makes -0.0 a 0.0, which has no sign.
    shown = f"{round(100 * share, 1) + 0.0:+.1f}"
    return "0.0" if shown == "+0.0" else shown


def _p(value: float, equals: str = "= ") -> str:
    return "< 0.0001" if value < 0.0001 else f"{equals}{value:.4f}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"

"""Many policies at once: adjusted p-values, letters that say which are not separated, and the ranking that is left."""

from __future__ import annotations

import string
from collections.abc import Collection, Sequence

Pair = tuple[int, int]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979, Scandinavian Journal of Statistics 6, 65-70), in the given order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def letters(count: int, separated: Collection[Pair]) -> list[str]:
    """Compact letter display: two policies share a letter if and only if they are not separated.

    Insert and absorb, Piepho 2004 (Journal of Computational and Graphical Statistics 13, 456-466).

    Args:
        count: policies, numbered in the order in which letters are to be given out (the best first).
        separated: pairs that are.
    """
    columns = [frozenset(range(count))]
    for i, j in separated:
        split = [part for column in columns for part in ((column - {i}, column - {j}) if {i, j} <= column else (column,))]
        kept = dict.fromkeys(split)
        columns = [column for column in kept if not any(column < other for other in kept)]
    columns.sort(key=sorted)
    names = [*string.ascii_lowercase, *(f"({number})" for number in range(27, len(columns) + 1))]
    return ["".join(names[k] for k, column in enumerate(columns) if i in column) for i in range(count)]


def tiers(order: Sequence[int], separated: Collection[Pair]) -> list[list[int]]:
    """The finest ranking that the data allow: everyone in a tier is separated from everyone in another. One tier is no ranking.

    Args:
        order: policies from the highest to the lowest rate.
        separated: pairs that are, each in any order.
    """
    apart = {frozenset(pair) for pair in separated}
    groups: list[list[int]] = []
    for place, policy in enumerate(order):
        if all(frozenset((a, b)) in apart for a in order[:place] for b in order[place:]):
            groups.append([])
        groups[-1].append(policy)
    return groups

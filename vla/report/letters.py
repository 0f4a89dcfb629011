"""Statistics for several policies at once: adjusted p-values, a letter display, and a ranking."""

from __future__ import annotations

import string
from collections.abc import Collection, Sequence

Pair = tuple[int, int]


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for multiple tests, in order (Holm 1979, Scandinavian Journal of Statistics 6, 65-70)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def letters(count: int, separated: Collection[Pair]) -> list[str]:
    """Returns a compact letter display: two policies share a letter if and only if they are not separated.

    The algorithm is insert and absorb, Piepho 2004 (Journal of Computational and Graphical Statistics 13, 456-466).

    Args:
        count: number of policies. Letters are assigned in the order of their numbers, so number the best one 0.
        separated: the separated pairs.
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
    """Returns the finest ranking that the data support: every policy of a tier is separated from every policy of another tier.

    A single tier means no ranking.

    Args:
        order: policies from the highest to the lowest rate.
        separated: the separated pairs, each in any order.
    """
    unordered = {frozenset(pair) for pair in separated}
    groups: list[list[int]] = []
    for rank, policy in enumerate(order):
        if all(frozenset((a, b)) in unordered for a in order[:rank] for b in order[rank:]):
            groups.append([])
        groups[-1].append(policy)
    return groups

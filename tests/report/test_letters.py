import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.report.letters import holm, letters, tiers


@st.composite
def separations(draw):
    count = draw(st.integers(2, 7))
    pairs = list(itertools.combinations(range(count), 2))
    return count, [pair for pair in pairs if draw(st.booleans())]


def test_known_displays():
    assert letters(3, []) == ["a", "a", "a"]
    assert letters(3, [(0, 1), (0, 2), (1, 2)]) == ["a", "b", "c"]
    assert letters(3, [(0, 2)]) == ["a", "ab", "b"]
    assert letters(4, [(0, 2), (0, 3), (1, 3)]) == ["a", "ab", "bc", "c"]
    assert letters(4, [(0, 3), (1, 3), (2, 3)]) == ["a", "a", "a", "b"]
    # Not along a line: the first is separated from the second only.
    assert letters(3, [(0, 1)]) == ["a", "b", "ab"]


@given(separations())
def test_a_letter_is_shared_exactly_by_those_not_separated(case):
    count, separated = case
    display = letters(count, separated)
    assert all(display)
    for i, j in itertools.combinations(range(count), 2):
        assert bool(set(display[i]) & set(display[j])) == ((i, j) not in separated)
    members = [{i for i in range(count) if letter in display[i]} for letter in set("".join(display))]
    assert not any(one < other for one in members for other in members), "no letter says what another says"


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2] and holm([0.5, 0.9]) == [1.0, 1.0]


def test_a_ranking_has_only_tiers_that_are_apart():
    assert tiers([2, 0, 1], [(0, 1), (1, 2)]) == [[2, 0], [1]]
    assert tiers([0, 1, 2], [(0, 2)]) == [[0, 1, 2]], "the middle one is separated from neither"
    assert tiers([0, 1, 2], [(1, 0), (2, 0), (2, 1)]) == [[0], [1], [2]]
    assert tiers([0, 1], []) == [[0, 1]]


@given(separations())
def test_everyone_in_a_tier_is_separated_from_everyone_outside(case):
    count, separated = case
    groups = tiers(range(count), separated)
    assert [i for group in groups for i in group] == list(range(count))
    for one, other in itertools.combinations(groups, 2):
        assert all((i, j) in separated for i in one for j in other)
    if len(groups) == 1 and count > 1:
        cuts = range(1, count)
        assert not any(all((i, j) in separated for i in range(c) for j in range(c, count)) for c in cuts), "the finest one"

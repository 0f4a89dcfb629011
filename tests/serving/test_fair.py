"""The waiting line against a plain model of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.serving.fair import FairQueue

ITEMS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12")), max_size=40)


@settings(deadline=None)
@given(ITEMS)
def test_nothing_is_lost_and_a_stream_keeps_its_order(pushed):
    queue = FairQueue()
    for number, (owner, stream) in enumerate(pushed):
        queue.push(owner, stream, (owner, stream, number))
    left = [queue.pop() for _ in range(len(queue))]
    assert len(queue) == 0 and sorted(n for *_, n in left) == list(range(len(pushed)))
    for line in set(pushed):
        numbers = [n for owner, stream, n in left if (owner, stream) == line]
        assert numbers == sorted(numbers)
    with pytest.raises(IndexError):
        queue.pop()


def test_a_client_with_many_requests_delays_another_by_one_place():
    queue = FairQueue()
    for number in range(100):
        queue.push("greedy", str(number), f"greedy {number}")
    queue.push("modest", "0", "modest")
    assert "modest" in [queue.pop() for _ in range(2)]
    queue.push("greedy", "0", "again")
    assert len(queue) == 100


@settings(deadline=None)
@given(ITEMS, st.integers(0, 39))
def test_what_is_taken_out_does_not_come(pushed, index):
    queue = FairQueue()
    items = [(owner, stream, number) for number, (owner, stream) in enumerate(pushed)]
    for item in items:
        queue.push(*item[:2], item)
    if items:
        gone = items[index % len(items)]
        assert queue.remove(*gone[:2], gone) and not queue.remove(*gone[:2], gone)
        items.remove(gone)
    assert len(queue) == len(items) and {queue.pop() for _ in range(len(queue))} == set(items)

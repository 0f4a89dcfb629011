"""The fair queue against a simple model of it."""

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
    popped = [queue.pop() for _ in range(len(queue))]
    assert len(queue) == 0 and sorted(n for *_, n in popped) == list(range(len(pushed)))
    for pair in set(pushed):
        numbers = [n for owner, stream, n in popped if (owner, stream) == pair]
        assert numbers == sorted(numbers)
    with pytest.raises(IndexError):
        queue.pop()


def test_a_client_with_many_requests_delays_another_by_one_position():
    queue = FairQueue()
    for number in range(100):
        queue.push("greedy", str(number), f"greedy {number}")
    queue.push("modest", "0", "modest")
    assert "modest" in [queue.pop() for _ in range(2)]
    queue.push("greedy", "0", "again")
    assert len(queue) == 100


@settings(deadline=None)
@given(ITEMS, st.integers(0, 39))
def test_removed_items_are_not_popped(pushed, index):
    queue = FairQueue()
    items = [(owner, stream, number) for number, (owner, stream) in enumerate(pushed)]
    for item in items:
        queue.push(*item[:2], item)
    if items:
        removed = items[index % len(items)]
        assert queue.remove(*removed[:2], removed) and not queue.remove(*removed[:2], removed)
        items.remove(removed)
    assert len(queue) == len(items) and {queue.pop() for _ in range(len(queue))} == set(items)

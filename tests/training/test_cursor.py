"""The cursor: every t once, whatever the epochs, ranks and interruptions."""

import itertools

import pytest

from vla.training.data import Cursor


@pytest.mark.parametrize("start", [0, 8, 12])
def test_epochs_go_on_where_the_last_one_ended(start):
    cursor = Cursor(4, 3, start)
    lengths, seen = [], []
    for _ in range(3):
        epoch = list(cursor)
        lengths.append(len(epoch))
        seen += itertools.chain(*epoch)
    assert seen == list(range(start, start + len(seen)))
    assert lengths[1:] == [3, 3] and lengths[0] == 3 - (start // 4) % 3


def test_ranks_share_each_batch():
    ranks = [list(Cursor(4, 2, 0, rank, 2)) for rank in range(2)]
    assert ranks == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]

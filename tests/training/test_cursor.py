"""The cursor: every t once, whatever the epochs, ranks and interruptions."""

import itertools

import pytest
from torch.utils.data import DataLoader

from vla.training.rows import Cursor


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


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_union_over_ranks_and_loader_processes_is_the_same_for_any_number_of_them(ranks):
    def drawn(workers):
        cursors = [Cursor(6, 4, 6, rank, ranks) for rank in range(ranks)]
        return [list(DataLoader(range(100), batch_sampler=c, num_workers=workers, collate_fn=list)) for c in cursors]

    alone = drawn(0)
    assert drawn(1) == drawn(2) == alone
    # Batch for batch, each sample once.
    assert [sorted(itertools.chain(*parts)) for parts in zip(*alone, strict=True)] == [list(range(t, t + 6)) for t in (6, 12, 18)]

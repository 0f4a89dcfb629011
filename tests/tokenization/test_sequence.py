import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.errors import UserError
from vla.tokenization.sequence import Role, collate, concat, fork, piece

PARTS = st.lists(st.tuples(st.lists(st.integers(0, 999), max_size=5), st.sampled_from(list(Role))), max_size=6)


@given(PARTS)
def test_concat_keeps_ids_roles_and_scores_only_the_model(parts):
    sequence = concat(piece(ids, role) for ids, role in parts)
    assert sequence.ids.tolist() == [i for ids, _ in parts for i in ids]
    assert sequence.roles.tolist() == [role for ids, role in parts for _ in ids]
    assert np.array_equal(sequence.loss, sequence.roles == Role.MODEL)
    assert not (sequence.roles[: sequence.prefix] == Role.MODEL).any()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 4))
def test_collate_pads_on_the_right(lengths, extra):
    rows = [concat([piece([5] * n, Role.PROMPT), piece([6] * n, Role.MODEL)]) for n in lengths]
    batch = collate(rows, pad_id=0, length=2 * max(lengths) + extra)
    for key in ("ids", "loss", "roles", "attention", "prefix"):
        assert batch[key].shape == (len(rows), 2 * max(lengths) + extra)
    for i, n in enumerate(lengths):
        assert batch["attention"][i].sum() == 2 * n and batch["attention"][i, : 2 * n].all()
        assert batch["prefix"][i].sum() == n and batch["loss"][i].sum() == n
        assert (batch["ids"][i, 2 * n :] == 0).all()
    assert not (batch["loss"] & ~batch["attention"]).any() and not (batch["loss"] & batch["prefix"]).any()


def test_each_branch_has_a_prefix_of_its_own():
    trunk = piece([9, 9], Role.IMAGE)
    first = [piece([1, 2], Role.PROMPT), piece([3], Role.MODEL)]
    second = [piece([4], Role.PROMPT), piece([5, 6], Role.MODEL)]
    batch = collate([fork(trunk, first, second), fork(trunk, first)], pad_id=0)
    assert batch["ids"][0].tolist() == [9, 9, 1, 2, 3, 4, 5, 6]
    assert batch["branch"].tolist() == [[0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 0, 0, 0]]
    assert batch["prefix"].astype(int).tolist() == [[1, 1, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    assert batch["loss"].astype(int).tolist() == [[0, 0, 0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 1, 0, 0, 0]]


def test_too_long_for_the_bucket_is_refused():
    with pytest.raises(UserError, match="3 tokens, the bucket 2"):
        collate([piece([1, 2, 3], Role.MODEL)], 0, 2)


def test_only_the_model_can_be_scored():
    with pytest.raises(ValueError, match="cannot be scored"):
        piece([1], Role.TOOL, loss=True)
    # An answer that is part of a longer conversation may stay unscored.
    assert not piece([1, 2], Role.MODEL, loss=False).loss.any()

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla.errors import UserError
from vla.tokenization.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return Vocabulary.from_tokenizer(tokenizer)


def test_ids_are_the_tokenizer_s(tokenizer, vocabulary):
    ids = vocabulary.bins_to_ids(np.arange(256))
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == [str(i) for i in range(256)]
    assert np.array_equal(vocabulary.ids_to_bins(ids), np.arange(256))
    assert np.array_equal(vocabulary.ids_to_bins(ids.reshape(16, 16)), np.arange(256).reshape(16, 16))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(u=st.floats(0, 1), v=st.floats(0, 1))
def test_a_point_comes_back_within_half_a_bin(vocabulary, u, v):
    back = vocabulary.ids_to_point(np.array(vocabulary.point_to_ids(u, v)))
    assert abs(back[0] - u) <= 1 / 128 + 1e-12 and abs(back[1] - v) <= 1 / 128 + 1e-12


def test_ids_of_other_tokens_are_refused(vocabulary):
    with pytest.raises(UserError, match="not an integer token"):
        vocabulary.ids_to_bins(np.array([vocabulary.integer_ids[3], vocabulary.loc_ids[0]]))
    with pytest.raises(UserError, match="not a location token"):
        vocabulary.ids_to_point(np.array([vocabulary.loc_ids[0], vocabulary.eos_id]))
    with pytest.raises(UserError, match="not an integer token"):
        vocabulary.ids_to_bins(np.array([10**9]))


@pytest.mark.parametrize("bins", [[256], [-1], [0.5]])
def test_bins_outside_the_vocabulary_are_refused(vocabulary, bins):
    with pytest.raises(UserError):
        vocabulary.bins_to_ids(np.array(bins))


def test_point_that_is_not_finite_is_refused(vocabulary):
    with pytest.raises(UserError):
        vocabulary.point_to_ids(float("nan"), 0.5)


def test_missing_token_is_named(without_200):
    with pytest.raises(UserError, match="200"):
        Vocabulary.from_tokenizer(without_200)


def test_shared_ids_are_refused(vocabulary):
    with pytest.raises(UserError):
        dataclasses.replace(vocabulary, eos_id=vocabulary.integer_ids[0])

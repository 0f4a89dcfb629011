import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.datasets.statistics import describe, space_with_statistics
from vla.errors import UserError
from vla.space import Space
from vla.tokenization.bins import UniformBins

SPACE = Space(("a", "b"), ("", ""), (-10.0, -10.0), (10.0, 10.0))


@given(arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(-9, 9)))
def test_statistics_are_ordered_and_constants_decode_exactly(values):
    space = space_with_statistics(SPACE, values)
    rows = {name: np.array(row) for name, row in space.statistics.items()}
    for low, high in [("min", "q01"), ("q01", "q99"), ("q99", "max"), ("min", "mean"), ("mean", "max")]:
        assert (rows[low] <= rows[high] + 1e-9).all()
    back = UniformBins(space).decode(UniformBins(space).encode(values))
    for dim, constant in enumerate(space.constant):
        assert (constant is None) == bool(np.ptp(values[:, dim]) >= 1e-9)
        if constant is not None:
            assert (back[:, dim] == constant).all() and abs(values[:, dim] - constant).max() < 1e-9


def test_negative_zero_does_not_change_the_hash():
    assert str(space_with_statistics(SPACE, np.full((3, 2), -0.0)).constant) == "(0.0, 0.0)"


def test_statistics_of_nothing_or_nan_are_refused():
    with pytest.raises(UserError):
        describe(np.zeros((0, 2)))
    with pytest.raises(UserError, match="NaN or infinity in b"):
        space_with_statistics(SPACE, np.array([[0.0, np.nan]]))

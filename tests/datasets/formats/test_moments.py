import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.datasets.formats.statistics.moments import quantiles, summary
from vla.datasets.statistics import describe


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.floats(-1e6, 1e6, width=32)),
    st.integers(1, 7),
)
def test_in_chunks_as_all_at_once(values, size):
    chunks = [values[i : i + size] for i in range(0, len(values), size)]
    computed, expected = summary(lambda: iter(chunks)), describe(values)
    for name, row in expected.items():
        assert computed[name] == pytest.approx(row, rel=1e-9, abs=1e-5 if name == "std" else 1e-9), name


def test_quantiles_are_numpys_exactly():
    values = np.random.default_rng(0).normal(size=(10_007, 2)).astype(np.float32)
    values[::3] = 0
    chunks = np.array_split(values, 13)
    shares = (0, 0.01, 0.1, 0.5, 0.77, 0.99, 1)
    computed = quantiles(lambda: iter(chunks), shares, len(values))
    assert np.array_equal(computed, np.quantile(values.astype(np.float64), shares, axis=0))


def test_dimensions_without_values_are_none():
    assert summary(lambda: iter([np.zeros((3, 0), np.float32)]))["mean"] == ()

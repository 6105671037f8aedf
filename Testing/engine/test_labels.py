"""The label with the largest share, as numpy's argmax has it."""

from __future__ import annotations

import numpy as np
from CovidSegLib.labels import Label, likeliest_label
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

SHAPES = st.tuples(*[st.integers(1, 4)] * 3).map(lambda shape: (len(Label), *shape))
#: Few different values, so that several classes are often alike.
SHARES = hnp.arrays(np.float32, SHAPES, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@given(shares=SHARES)
def test_likeliest_label_is_argmax_and_the_lower_of_equal_ones(shares: np.ndarray) -> None:
    before = shares.copy()
    found = likeliest_label(shares)
    assert found.dtype == np.uint8
    assert np.array_equal(found, before.argmax(axis=0))
    assert np.array_equal(shares, before)


def test_views_of_any_stride_will_do() -> None:
    shares = np.random.default_rng(0).random((4, 6, 8, 10), dtype=np.float32)
    seen = shares[:, ::-1, 1::2, 2:7]
    assert np.array_equal(likeliest_label(seen), seen.argmax(axis=0))

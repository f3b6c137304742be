"""Segments are reduced as one by one, however their lengths are spread."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.tokens.segmented_reduce import Segments

counts = st.one_of(
    st.lists(st.integers(1, 5), min_size=1, max_size=200),
    st.lists(st.integers(1, 90), min_size=1, max_size=8),
    st.tuples(st.integers(1, 300), st.integers(1, 60)).map(lambda pair: [1] * pair[0] + [pair[1]]),
)


@given(counts, st.integers(0, 2**32 - 1))
def test_each_segment_has_its_own_maximum_and_sum(lengths: list[int], seed: int) -> None:
    """The layout contains every member once."""
    lengths = sorted(lengths, reverse=True)
    members = np.random.default_rng(seed).standard_normal(sum(lengths))
    parts = np.split(members, np.cumsum(lengths)[:-1])
    segments = Segments(np.array(lengths))
    assert sorted(segments.layout) == list(range(len(members)))
    lowered = np.repeat(np.arange(len(lengths), dtype=np.float64), lengths)[segments.layout]
    segments.subtract(lowered, np.arange(len(lengths), dtype=np.float64))
    assert not lowered.any()
    out = np.empty(len(lengths))
    assert (segments.reduce(np.maximum, members[segments.layout], out) == [part.max() for part in parts]).all()
    assert np.allclose(segments.reduce(np.add, members[segments.layout], out), [part.sum() for part in parts])

"""Parsing of server-sent events from arbitrary chunks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.sse_reader import MAX_EVENT_BYTES, EventReader, EventTooLarge

STREAM = (
    b": a comment\n\n"
    b"data: one\n\n"
    b"event: x\nid: 3\ndata: two\n\n"
    b"data:three\n\n"
    b"data: a\ndata: b\n\n"
    b"retry: 5\n\n"
    b"data: [DONE]\n\n"
)
DATA = [b"one", b"two", b"three", b"a\nb", b"[DONE]"]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12), crlf=st.booleans())
def test_chunk_boundaries_do_not_matter(cuts: list[int], crlf: bool) -> None:
    stream = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    borders = [0, *sorted(cuts), len(stream)]
    reader = EventReader()
    found = [data for start, end in pairwise(borders) for data in reader.feed(stream[start:end])]
    assert found == DATA


def test_an_incomplete_event_is_not_returned() -> None:
    assert EventReader().feed(b"data: half\n") == []


def test_an_endless_event_is_refused() -> None:
    reader = EventReader()
    reader.feed(b"data: ")
    with pytest.raises(EventTooLarge):
        reader.feed(b"x" * MAX_EVENT_BYTES)

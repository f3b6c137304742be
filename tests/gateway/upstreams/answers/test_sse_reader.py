"""Parsing of server-sent events from arbitrary chunks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.answers.sse_reader import MAX_EVENT_BYTES, MAX_EVENT_LINES, EventReader, EventTooLarge

STREAM = (
    b": a comment\n\n"
    b"data: one\n\n"
    b"event: x\nid: 3\ndata: two\n\n"
    b"data:three\n\n"
    b"data: a\ndata: b\n\n"
    b"retry: 5\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [(b"", b"one"), (b"x", b"two"), (b"", b"three"), (b"", b"a b"), (b"", b"[DONE]")]


@given(cuts=st.lists(st.integers(0, 2 * len(STREAM)), max_size=12), end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_neither_chunk_boundaries_nor_the_kind_of_line_ends_matter(cuts: list[int], end: bytes) -> None:
    stream = STREAM.replace(b"\n", end)
    borders = [0, *sorted(cuts), len(stream)]
    reader = EventReader()
    found = [event for start, end in pairwise(borders) for event in reader.feed(stream[start:end])]
    assert found == EVENTS
    assert reader.close() == []


def test_the_last_event_needs_no_blank_line_once_the_stream_has_ended() -> None:
    reader = EventReader()
    assert reader.feed(b"data: one\r\rdata: [DONE]\n") == [(b"", b"one")]
    assert reader.close() == [(b"", b"[DONE]")]
    assert EventReader().close() == []


def test_a_long_event_in_small_parts_takes_linear_time() -> None:
    reader = EventReader()
    reader.feed(b"data:")
    for _ in range(200_000):
        reader.feed(b"x")
    assert len(reader.feed(b"\n\n")) == 1


def test_an_event_of_very_many_lines_is_refused() -> None:
    with pytest.raises(EventTooLarge):
        EventReader().feed(b"data:x\n" * (MAX_EVENT_LINES + 1) + b"\n")
    assert len(EventReader().feed(b"data:x\n" * MAX_EVENT_LINES + b"\n")) == 1


def test_an_incomplete_event_is_not_returned() -> None:
    assert EventReader().feed(b"data: half\n") == []


def test_an_endless_event_is_refused() -> None:
    reader = EventReader()
    reader.feed(b"data: ")
    with pytest.raises(EventTooLarge):
        reader.feed(b"x" * MAX_EVENT_BYTES)

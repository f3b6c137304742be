"""W3C Trace Context: parsing and forwarding."""

import pytest

from twolane.process.trace_context import read_trace, trace_of

CALLER = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_context_that_is_not_ours_to_change_is_handed_on_as_it_came() -> None:
    trace = read_trace({b"traceparent": CALLER, b"tracestate": b"vendor=1"})
    assert trace is not None
    assert (trace.traceparent, trace.state, trace.is_recorded) == (CALLER.decode(), "vendor=1", False)


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"x" * 20_000,
        b"\xe9\xff",
        CALLER.upper(),
        b"ff" + CALLER[2:],
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
        CALLER + b"\r\nx: y",
    ],
)
def test_what_is_not_well_formed_is_never_handed_on(given: bytes) -> None:
    assert read_trace({b"traceparent": given}) is None


@pytest.mark.parametrize("state", [b"a=\x00", b"\xff", b"x" * 513, b""])
def test_a_strange_tracestate_is_dropped_by_itself(state: bytes) -> None:
    trace = read_trace({b"traceparent": CALLER, b"tracestate": state})
    assert trace is not None
    assert trace.state == ""


def test_attempts_have_spans_of_their_own_that_are_never_zero() -> None:
    trace = trace_of(f"{1:032x}", f"{(1 << 64) - 2:016x}", flags=1, is_recorded=True)
    ids = [trace.child_id(number) for number in (1, 2, 3)]
    assert len({trace.span_id, *ids}) == 4
    assert all(0 < each < 1 << 64 for each in ids)
    assert trace.header(ids[0]) == f"00-{'0' * 31}1-{'f' * 16}-01"

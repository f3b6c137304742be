"""How the bytes of a connection become one response, however they are split, and what is refused."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.http_client import connection as connections
from gateway.upstreams.http_client.client import PUSHED_BYTES, HttpResponse, HungUp, InvalidResponse
from gateway.upstreams.http_client.connection import Connection
from gateway.upstreams.http_client.limits import ClientLimits
from twolane.process.http.compiled import IS_BUILT

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
LIMITS = ClientLimits(head_bytes=1000, headers=10, body_bytes=100)


class Wire:
    """A transport that records what happens to it."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.is_closed = False

    def get_extra_info(self, _: str) -> socket.socket:
        return self.real

    def write(self, _: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def abort(self) -> None:
        self.is_closed = True


class Outcome:
    """What came of feeding a connection."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.error: Exception | None = None
        self.is_complete = self.is_reusable = False


@contextlib.contextmanager
def connection(limits: ClientLimits = LIMITS) -> Iterator[tuple[Connection, Wire, list[Connection]]]:
    idle: list[Connection] = []
    with socket.socket() as real:
        made, wire = Connection(("h", 80), limits, idle.append, lambda _: None), Wire(real)
        made.connection_made(wire)  # type: ignore[arg-type]
        yield made, wire, idle


def play(*reads: bytes, ends: bool = False, resets: bool = False, is_bodiless: bool = False) -> Outcome:
    """One request, and what the server sends."""

    async def run() -> Outcome:
        found = Outcome()
        with connection() as (made, wire, idle):
            head = made.send(b"POST / HTTP/1.1\r\n\r\n", is_bodiless=is_bodiless)
            for data in reads:
                if not wire.is_closed:
                    made.data_received(data)
            if ends and not wire.is_closed:
                made.eof_received()
            if ends or resets or wire.is_closed:
                made.connection_lost(ConnectionResetError() if resets else None)
            try:
                response = await asyncio.wait_for(head, 120)
                found.status, found.headers = response.status, response.headers
                while part := await asyncio.wait_for(response.read(), 120):
                    found.body += part
                found.is_complete = response.is_complete
            except (HungUp, InvalidResponse) as error:
                found.error = error
            found.is_reusable = bool(idle) and not wire.is_closed
        return found

    return asyncio.run(run())


COMMON = (SIZED, CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
ODD = (
    *(
        b"",
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\0",
        b"\x80",
        b":",
        b"9",
        b"0",
        b"HTTP/1.0",
        b"204",
        b"\r\nConnection: close",
    ),
    *(b"\r\nX-A: c", b"\r\nUpgrade: h2c", b"\r\nTransfer-Encoding: chunked", b"0\r\n\r\n", b"5\r\nhello\r\n", SIZED),
)


@pytest.mark.parametrize("common", COMMON)
@given(
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), st.sampled_from(ODD)), max_size=2),
    cuts=st.lists(st.integers(0, 200), max_size=2),
)
def test_what_the_quick_readers_take_the_parser_takes_alike(
    common: bytes, edits: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    for at, size, put in edits:
        common = common[: at % len(common)] + put + common[at % len(common) + size :]
    at_all = [0, *sorted(min(cut, len(common)) for cut in cuts), len(common)]
    reads = [common[start:end] for start, end in itertools.pairwise(at_all) if start < end]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "read_response", lambda *_: None)
        by_parser = play(*reads, ends=True)
    found = play(*reads, ends=True)
    assert (type(found.error), found.status, found.body) == (type(by_parser.error), by_parser.status, by_parser.body)
    assert (found.headers, found.is_complete) == (by_parser.headers, by_parser.is_complete)
    assert found.is_reusable is by_parser.is_reusable


class Sink:
    """Takes parts until one is the last."""

    def __init__(self, last: bytes = b"never") -> None:
        self.parts: list[bytes] = []
        self._last = last

    def __call__(self, part: bytes) -> bool:
        self.parts.append(part)
        return part != self._last


def test_parts_are_pushed_until_the_sink_has_enough_and_the_others_are_read() -> None:
    sink = Sink(last=b"two")

    async def run(made: Connection, response: HttpResponse) -> bytes:
        assert response.push(sink)
        assert sink.parts == [b"one"]  # which had arrived before
        made.data_received(b"3\r\ntwo\r\n")
        made.data_received(b"5\r\nthree\r\n0\r\n\r\n")
        return await response.read() + await response.read()

    assert pushing(CHUNKED + b"3\r\none\r\n", run) == b"three"
    assert sink.parts == [b"one", b"two"]


def test_a_sink_hears_of_the_end_once() -> None:
    sink = Sink()

    async def run(made: Connection, response: HttpResponse) -> bytes:
        response.push(sink)
        made.data_received(b"3\r\ntwo\r\n0\r\n\r\n")
        return await response.read()

    assert pushing(CHUNKED, run) == b""
    assert sink.parts == [b"two", b""]


def test_a_sink_hears_of_a_failure_which_is_then_raised() -> None:
    sink = Sink()

    async def run(made: Connection, response: HttpResponse) -> bytes:
        response.push(sink)
        made.connection_lost(ConnectionResetError())
        with pytest.raises(HungUp):
            await response.read()
        return b""

    pushing(CHUNKED, run)
    assert sink.parts == [b""]


def test_a_part_that_the_parser_reads_is_pushed_too_and_a_large_one_is_not() -> None:
    sink, large = Sink(), b"x" * (PUSHED_BYTES + 1)

    async def run(made: Connection, response: HttpResponse) -> bytes:
        response.push(sink)
        made.data_received(b"3;a=b\r\none\r\n")
        made.data_received(b"%x\r\n%b\r\n" % (len(large), large))
        return await response.read()

    assert pushing(CHUNKED, run, ClientLimits()) == large
    assert sink.parts == [b"one", b""]


def test_parts_that_are_pushed_count_towards_the_limit_of_the_body() -> None:
    sink, part = Sink(), b"6\r\nsecond\r\n"

    async def run(made: Connection, response: HttpResponse) -> bytes:
        response.push(sink)
        made.data_received(part)
        made.data_received(part)
        with pytest.raises(InvalidResponse, match="too large"):
            await response.read()
        return b""

    pushing(CHUNKED, run, ClientLimits(body_bytes=10))
    assert sink.parts == [b"second", b""]


@pytest.mark.skipif(not IS_BUILT, reason="the compiled readers are not built")
def test_chunks_of_text_are_relayed_as_they_came_unless_they_must_be_read() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"abc"}}]}\n\n'
    text, sink, relayed = b"%X\r\n%b\r\n" % (len(event), event), Sink(), []
    answers = iter((True, None, False))

    def relay(*given: Any) -> bool | None:
        relayed.append(given)
        return next(answers)

    async def run(made: Connection, response: HttpResponse) -> bytes:
        response.push(sink, relay)
        made.data_received(text)
        made.data_received(text)
        made.data_received(b"3\r\ntwo\r\n")
        made.data_received(text + text)
        made.data_received(text + b"0\r\n\r\n")
        return await response.read()

    assert pushing(CHUNKED, run, ClientLimits()) == event
    assert relayed == [(text, 0, 3), (text, 0, 3), (text + text, 0, 6)]
    assert sink.parts == [event, b"two"]


def test_a_body_that_arrived_with_its_head_is_taken_once_as_a_whole_or_read() -> None:
    async def take(_: Connection, response: HttpResponse) -> bytes:
        assert not response.is_complete
        assert response.whole(4) is None  # it is larger
        taken = response.whole(5)
        assert taken is not None
        assert response.whole(5) is None
        assert response.is_complete
        return taken + await response.read()

    async def read(_: Connection, response: HttpResponse) -> bytes:
        assert not response.push(Sink())  # there is nothing to wait for
        taken = await response.read()
        assert response.is_complete
        return taken + await response.read()

    assert pushing(SIZED, take) == pushing(SIZED, read) == b"hello"


def pushing(
    head: bytes, run: Callable[[Connection, HttpResponse], Awaitable[bytes]], limits: ClientLimits | None = None
) -> bytes:
    """What `run` returns with a response of which this has arrived."""

    async def started() -> bytes:
        with connection(limits or LIMITS) as (made, _, _):
            waiting = made.send(b"POST / HTTP/1.1\r\n\r\n")
            made.data_received(head)
            return await asyncio.wait_for(run(made, await waiting), 120)

    return asyncio.run(started())


WHOLE = (
    SIZED,
    CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + SIZED,
    SIZED.replace(b"\r\n", b"\n"),
    SIZED.replace(b"X-A: b", b"X-A: b\r\n  folded"),
    SIZED.replace(b"X-A: b", b"Connection: Upgrade\r\nUpgrade: h2c"),
)


@pytest.mark.parametrize("data", WHOLE)
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_a_response_is_the_same_however_it_is_split(data: bytes, cuts: list[int]) -> None:
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found = play(*(data[start:end] for start, end in itertools.pairwise(at) if start < end))
    assert (found.status, found.body, found.error) == (200, b"hello", None)
    assert found.is_complete
    assert found.is_reusable


@pytest.mark.parametrize("data", [SIZED, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
@given(behind=st.binary(min_size=1, max_size=60), cut=st.integers(0, 60))
def test_whatever_stands_behind_a_response_never_joins_it(data: bytes, behind: bytes, cut: int) -> None:
    found = play(data + behind[:cut], behind[cut:]) if behind[cut:] else play(data + behind)
    assert (found.body, found.error, found.is_complete) == (b"hello", None, True)
    assert not found.is_reusable or not behind.strip(b"\r\n")  # the parser skips empty lines


def test_a_second_response_ends_the_connection_and_is_not_read() -> None:
    found = play(SIZED + SIZED.replace(b"hello", b"EVIL!"))
    assert (found.body, found.is_complete, found.is_reusable) == (b"hello", True, False)


@pytest.mark.parametrize(
    ("data", "is_bodiless"),
    [
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True),
        (SIZED, True),
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
    ],
)
def test_responses_that_have_no_body_end_with_their_head(data: bytes, is_bodiless: bool) -> None:
    found = play(data, is_bodiless=is_bodiless)
    assert (found.body, found.error, found.is_complete) == (b"", None, True)


def test_a_response_without_a_length_ends_with_the_connection_unless_it_is_reset() -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nhello"
    assert play(data, ends=True).is_complete
    assert isinstance(play(data, resets=True).error, HungUp)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        SIZED[:-1],
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_a_response_that_is_cut_short_is_not_complete(data: bytes) -> None:
    found = play(*([data] if data else []), ends=True)
    assert isinstance(found.error, HungUp)
    assert not found.is_complete


INVALID = {
    "length-and-chunks": SIZED.replace(b"X-A: b", b"Transfer-Encoding: chunked"),
    "chunks-and-length": CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "two-lengths": SIZED.replace(b"X-A: b", b"Content-Length: 4"),
    "negative-length": SIZED.replace(b": 5", b": -5"),
    "length-in-words": SIZED.replace(b": 5", b": five"),
    "length-with-sign": SIZED.replace(b": 5", b": +5"),
    "length-too-large": SIZED.replace(b": 5", b": 101"),
    "length-of-many-digits": SIZED.replace(b": 5", b": " + b"9" * 500),
    "coding-gzip": CHUNKED.replace(b"chunked", b"gzip") + b"hello",
    "coding-gzip-chunked": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
    "coding-twice": CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-in-two-lines": CHUNKED.replace(b"Transfer", b"Transfer-Encoding: gzip\r\nTransfer") + b"0\r\n\r\n",
    "chunk-size-broken": CHUNKED + b"zz\r\nhello",
    "chunk-size-huge": CHUNKED + b"F" * 17 + b"\r\n",
    "chunk-without-end": CHUNKED + b"5\r\nhelloX\r\n",
    "body-too-large": CHUNKED + b"65\r\n" + b"x" * 101 + b"\r\n",
    "other-protocol": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
    "other-protocol-alone": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "head-too-large": b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 1000 + b"\r\n\r\n",
    "too-many-headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 11 + b"\r\n",
    "too-many-trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 11 + b"\r\n",
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "request": b"GET / HTTP/1.1\r\n\r\n",
    "name-with-blank": SIZED.replace(b"X-A", b"X A"),
    "name-with-nul": SIZED.replace(b"X-A", b"X\0A"),
}


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_responses_that_break_the_rules_are_refused_and_end_the_connection(data: bytes) -> None:
    for found in (play(data), play(*(data[at : at + 1] for at in range(len(data))))):
        assert isinstance(found.error, InvalidResponse)
        assert not found.is_reusable


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 100),
        (b"HTTP/1.1 200 ", b"x" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        (CHUNKED + b"0\r\nX-A: ", b"x" * 100),
        (CHUNKED + b"5;", b"x" * 100),
    ],
)
def test_a_head_or_trailer_without_end_is_refused(first: bytes, more: bytes) -> None:
    found = play(*([first] if first else []), *[more] * 30)
    assert isinstance(found.error, InvalidResponse)


def test_what_arrived_before_a_fault_is_read_first() -> None:
    found = play(CHUNKED + b"5\r\nhello\r\n", b"zz\r\n")
    assert found.body == b"hello"
    assert isinstance(found.error, InvalidResponse)


def test_the_first_of_several_headers_counts_and_content_encodings_are_joined() -> None:
    lines = b"X-A: 1\r\nx-a: 2\r\nContent-Encoding: gzip\r\ncontent-encoding: br\r\nX-Name: caf\xe9"
    found = play(SIZED.replace(b"X-A: b", lines))
    assert (found.headers["x-a"], found.headers["content-encoding"]) == ("1", "gzip,br")
    assert found.headers["x-name"].startswith("caf")


def test_bytes_before_any_request_end_the_connection() -> None:
    async def run() -> bool:
        with connection() as (made, wire, _):
            made.data_received(SIZED)
            return wire.is_closed

    assert asyncio.run(run())

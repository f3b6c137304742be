"""The quick readers accept only what the full readers accept, with the same result."""

import re
import socket
from collections.abc import Callable
from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twolane.process.http import compiled
from twolane.process.http.compiled import header_lines, is_readable, read_chunks, read_request, read_response

pytestmark = pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled readers are not built")


def edited(text: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """The text with something else in some places."""
    for at, cut, put in edits:
        place = at % (len(text) + 1)
        text = text[:place] + put + text[place + cut :]
    return text


class Seen:
    """What the parser found."""

    def __init__(self) -> None:
        self.url, self.body = b"", b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_begun = self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        self.is_begun = True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


LINE = b"POST /v1/x HTTP/1.1"
REQUEST = LINE + b"\r\nHost: a.b:1\r\nX-Y_z:  two words \r\nempty:\r\nContent-Length: 4\r\nAccept: */*\r\n\r\nbody"
HEAD_SIZE = len(REQUEST) - 4
TARGETS = {LINE: "/v1/x"}
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nconnection: Keep-Alive\r\ncontent-length: 4\r\n\r\nbody"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"
HEAD_ODD = st.sampled_from(
    [
        *(b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"\x80", b"(", b'"', b"x", b"\r\n ", b"\r\nq: 1"),
        *(
            b"\r\nexpect: 100-continue",
            b"\r\nTransfer-Encoding: chunked",
            b"\r\nconnection: close",
            b"\r\nhost: b",
            b"0",
        ),
    ]
)
HEAD_EDITS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), HEAD_ODD), max_size=3)


@given(HEAD_EDITS)
def test_a_request_that_is_read_is_read_alike_by_the_parser(edits: list[tuple[int, int, bytes]]) -> None:
    message = edited(REQUEST, edits)
    found = read_request(message, TARGETS, 1000, 100)
    if found is None:
        return
    target, listed, named, body = found
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(message)
    assert seen.is_complete
    assert (seen.headers, seen.url, seen.body) == (listed, target.encode(), body)
    assert list(named.items()) == listed
    assert not parser.should_upgrade()
    assert named.keys().isdisjoint((b"expect", b"transfer-encoding"))


def test_the_common_request_is_read() -> None:
    target, listed, named, body = read_request(REQUEST, TARGETS, HEAD_SIZE, 5) or pytest.fail("it is not read")
    assert (target, body) == ("/v1/x", b"body")
    assert listed[:3] == [(b"host", b"a.b:1"), (b"x-y_z", b"two words"), (b"empty", b"")]
    assert named == dict(listed)


def test_a_request_that_is_cut_off_or_beyond_a_limit_or_for_another_target_is_not_read() -> None:
    assert [read_request(REQUEST[:size], TARGETS, 1000, 100) for size in range(len(REQUEST))] == [None] * len(REQUEST)
    assert read_request(REQUEST, TARGETS, HEAD_SIZE - 1, 100) is None
    assert read_request(REQUEST, TARGETS, 1000, 4) is None
    assert read_request(REQUEST, {}, 1000, 100) is None
    assert read_request(REQUEST + b"GET", TARGETS, 1000, 100) is None


@pytest.mark.parametrize("common", [RESPONSE, CHUNKED, CHUNKED + b"0\r\n\r\n"])
@given(edits=HEAD_EDITS)
@example(edits=[])
def test_a_response_that_is_read_is_read_alike_by_the_parser(
    common: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    message = edited(common, edits)
    found = read_response(message, 1000, 1000)
    if found is None:
        assert edits
        return
    seen = Seen()
    parser = httptools.HttpResponseParser(seen)
    parser.feed_data(message)
    assert (dict(seen.headers), seen.body, seen.is_complete) == found
    assert parser.get_status_code() == 200


def test_a_response_that_is_cut_off_or_beyond_a_limit_is_not_read() -> None:
    assert [read_response(RESPONSE[:size], 1000, 1000) for size in range(len(RESPONSE))] == [None] * len(RESPONSE)
    assert read_response(RESPONSE, len(RESPONSE) - 5, 1000) is None
    assert read_response(RESPONSE, 1000, 3) is None
    assert read_response(CHUNKED, 1000, 3) is None
    assert read_response(RESPONSE.replace(b"200", b"201"), 1000, 1000) is None


OTHER_HEADERS = [
    *(b"Content-Length: 4", b"transfer-encoding: chunked", b"Transfer-Encoding : chunked", b" folded", b"\tfolded"),
    *(b"connection: close", b"Connection:", b"connection: upgrade", b"Upgrade: h2c", b"Trailer: a"),
    *(b"Proxy-Connection: a", b"a b: c", b": c", b"a", b"a: \0", b"a: \x80", b"a: b\tc", b"a: b\nc: d"),
    *(b"a: b\rc: d", b"a\0: b", b"a" * 65 + b": b"),
]


@pytest.mark.parametrize("header", OTHER_HEADERS)
@pytest.mark.parametrize("message", [REQUEST, RESPONSE.replace(b"connection: Keep-Alive\r\n", b""), CHUNKED])
def test_a_message_with_an_uncommon_header_is_left_to_the_parser(message: bytes, header: bytes) -> None:
    message = message.replace(b"\r\n", b"\r\n" + header + b"\r\n", 1)
    assert read_request(message, TARGETS, 1000, 100) is None
    assert read_response(message, 1000, 1000) is None


@pytest.mark.parametrize("length", [b"+4", b"04", b"0x4", b"4,4", b"4 4", b"-4", b"", b"9" * 30, b"3", b"5"])
def test_a_length_that_is_not_that_of_the_rest_is_left_to_the_parser(length: bytes) -> None:
    assert read_request(REQUEST.replace(b": 4", b": " + length), TARGETS, 1000, 100) is None
    assert read_response(RESPONSE.replace(b": 4", b": " + length), 1000, 1000) is None


CHUNKS = b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n"
CHUNK_ODD = st.sampled_from(
    [b"", b"0", b"5", b"ffffffffffffffff", b";x", b" ", b"\r", b"\n", b"\r\n", b"g", b"-1", b"0\r\n\r\n", b"1\r\nx\r\n"]
)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), CHUNK_ODD), max_size=3))
def test_chunks_that_are_read_are_read_alike_by_the_parser(edits: list[tuple[int, int, bytes]]) -> None:
    data = edited(CHUNKS, edits)
    found = read_chunks(data)
    if found is None:
        return
    seen = Seen()
    parser = httptools.HttpResponseParser(seen)
    parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data)
    assert (seen.body, seen.is_complete) == found


def test_common_chunks_are_read_and_others_left_to_the_parser() -> None:
    assert read_chunks(CHUNKS) == (b"hello0123456789", True)
    assert read_chunks(CHUNKS[:-5]) == (b"hello0123456789", False)
    assert [read_chunks(CHUNKS[:cut]) for cut in (1, 4, 9, len(CHUNKS) - 1)] == [None] * 4


TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")


@given(st.lists(st.tuples(st.binary(max_size=4) | st.just(b"x-a"), st.binary(max_size=4)), max_size=4))
@example([(b"x\0", b"")])
def test_header_lines_have_no_more_lines_than_headers(headers: list[tuple[bytes, bytes]]) -> None:
    lines = header_lines(headers)
    is_writable = all(TOKEN.fullmatch(name) and not re.search(rb"[\r\n\0]", value) for name, value in headers)
    assert (lines is not None) is is_writable
    assert lines is None or lines == b"".join(b"%b: %b\r\n" % header for header in headers)


@pytest.mark.parametrize("name", [b"content-length", b"connection", b"transfer-encoding"])
def test_headers_that_frame_a_message_are_left_to_the_writer(name: bytes) -> None:
    assert header_lines([(b"a", b"b"), (name, b"1")]) is None


@pytest.mark.parametrize("headers", [[("a", "b")], [(b"a",)], [[b"a", b"b"]], ((b"a", b"b"),), None])
def test_what_is_no_list_of_headers_is_left_to_the_writer(headers: Any) -> None:
    assert header_lines(headers) is None


@pytest.mark.parametrize("asks", [is_readable, compiled._polls], ids=["compiled", "python"])
def test_a_socket_is_readable_when_bytes_or_the_end_have_arrived(asks: Callable[[int], bool]) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        assert not asks(ours.fileno())
        theirs.send(b"x")
        assert asks(ours.fileno())
        ours.recv(1)
        assert not asks(ours.fileno())
        theirs.close()
        assert asks(ours.fileno())
        number = ours.fileno()
    assert asks(number)  # it is closed here

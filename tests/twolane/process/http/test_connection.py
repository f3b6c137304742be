"""Connections are not closed during a request: clients get a response, or see the close before they send. Requests that
break a limit or the rules of HTTP get a typed response, and clients that do not read are disconnected."""

import asyncio
import contextlib
import gc
import json
import socket
import struct
import time
from typing import Any

import pytest

from tests.twolane.process.http.listening import (
    CHUNKED,
    END,
    HEAD,
    LARGE,
    OK,
    REQUEST,
    Hanging,
    answer_of,
    answers_first,
    chunks_of,
    echoes,
    error_of,
    everything,
    first_answer,
    reads_first,
    receive,
    send_ok,
    served,
    status_of,
)
from twolane.process.http import connection
from twolane.process.http.connection import ClientConnection
from twolane.process.http.limits import Broken
from twolane.process.http.request_cycle import WATCH, RequestCycle

pytestmark = pytest.mark.anyio

# Closing


async def test_a_request_waiting_in_the_socket_at_the_keep_alive_timeout_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.0)
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        client.sendall(REQUEST)
        it.connection.check(asyncio.get_running_loop().time() + 601)
        assert b"connection: close" not in await answer_of(client)


async def test_a_request_waiting_in_the_socket_at_shutdown_is_served_as_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.0)
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        client.sendall(REQUEST)
        it.connection.shutdown()
        assert b"connection: close" in await answer_of(client)
        assert await receive(client) == b""


async def test_a_connection_in_use_can_send_one_more_request_at_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 60.0)
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        it.connection.shutdown()
        await asyncio.sleep(0.01)
        assert b"connection: close" in await first_answer(client)
        assert await receive(client) == b""


async def test_a_connection_that_was_to_be_closed_is_kept_for_a_request_that_has_begun_to_arrive() -> None:
    """However slowly its head arrives: that has a limit of its own."""
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        client.sendall(REQUEST[:9])
        while it.connection._phase == connection._IDLE:  # noqa: ASYNC110 - it has read the bytes
            await asyncio.sleep(0.001)
        it.connection._close_when_quiet(0.0)
        client.sendall(REQUEST[9:])
        assert status_of(await receive(client)) == 200


async def test_an_idle_connection_is_closed_at_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.01)
    async with served(reads_first) as it:
        client = it.connect()
        await first_answer(client)
        it.connection.shutdown()
        assert await receive(client) == b""


async def test_an_idle_connection_is_closed_by_the_keep_alive_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.01)
    async with served(reads_first, keep_alive_s=0.05) as it:
        client = it.connect()
        await first_answer(client)
        assert await receive(client) == b""


async def test_a_connection_without_a_request_is_closed_without_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.01)
    async with served(reads_first, head_s=0.05) as it:
        assert await receive(it.connect()) == b""
        client = it.connect()
        client.sendall(b"\r\n")
        assert await receive(client) == b""


@pytest.mark.parametrize("close", [False, True])
async def test_an_early_response_reaches_a_client_that_reads_after_sending_its_body(close: bool) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % LARGE
    async with served(answers_first) as it:
        client = it.connect()
        await asyncio.to_thread(client.sendall, head + (b"connection: close\r\n" if close else b"") + b"\r\n")
        await asyncio.to_thread(client.sendall, b"x" * LARGE)
        assert (b"connection: close" in await answer_of(client)) is close
        if close:
            assert await receive(client) == b""
        else:
            await first_answer(client)


@pytest.mark.parametrize("close", [False, True])
async def test_a_client_that_never_ends_its_body_is_disconnected_after_the_response(close: bool) -> None:
    async with served(answers_first, linger_s=0.05) as it:
        client = it.connect()
        client.sendall(HEAD + (b"connection: close\r\n" if close else b"") + b"content-length: 9\r\n\r\nhi")
        await answer_of(client)
        with contextlib.suppress(ConnectionResetError):
            assert await receive(client) == b""
        await it.is_empty()


@pytest.mark.parametrize("sent", [b"P", HEAD + b"connection: close\r\ncontent-length: 9\r\n\r\nhi"])
async def test_a_client_that_stops_within_a_request_does_not_hold_up_the_shutdown(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither within a head, nor within a body whose response was sent."""
    monkeypatch.setattr(connection, "QUIET_S", 0.01)
    monkeypatch.setattr(connection, "DRAINING_HEAD_S", 0.05)
    async with served(answers_first) as it:
        it.connect().sendall(sent)
        while not it.state.connections or (len(sent) > 1 and not it.state.total_requests):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        it.connection.shutdown()
        it.connection.check(asyncio.get_running_loop().time() + 3)
        await it.is_empty()


# Half-closed connections


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("watches", [False, True])
@pytest.mark.parametrize("is_late", [False, True])
async def test_a_client_that_shuts_its_sending_half_is_answered(streams: bool, watches: bool, is_late: bool) -> None:
    """Also when the response takes longer than the probe, and when it has started before."""
    app = Hanging(streams=streams, watches=watches)
    async with served(app) as it:
        client = it.connect()
        client.sendall(REQUEST)
        if is_late:
            await app.received.wait()
        client.shutdown(socket.SHUT_WR)
        await app.received.wait()
        await asyncio.sleep(connection.PROBE_S * 1.5)
        app.go.set()
        got = await everything(client)
        assert not app.left.is_set()
    final = got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert final.startswith(b"HTTP/1.1 200")
    body = final.partition(b"\r\n\r\n")[2]
    assert chunks_of(body) == b"first last" if streams else body == b"ok"


async def test_a_quick_response_to_a_half_closed_client_has_no_interim_response() -> None:
    async with served(reads_first) as it:
        assert (await it.talk(REQUEST, shut=True)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("watches", [False, True])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("size", [2, 3 * 65_536])
async def test_a_client_that_leaves_ends_its_request(streams: bool, watches: bool, how: str, size: int) -> None:
    """Also behind a body that was too large to be read at once."""
    app = Hanging(streams=streams, watches=watches)
    async with served(app) as it:
        client = it.connect()
        request = HEAD + b"content-length: %d\r\n\r\n" % size + bytes(size)
        await asyncio.to_thread(client.sendall, request)
        await app.received.wait()
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await app.left.wait()


@pytest.mark.parametrize("is_watched", [False, True])
async def test_a_client_that_left_before_it_was_watched_is_noticed(is_watched: bool) -> None:
    left, told = asyncio.Event(), list[bool]()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope[WATCH]((lambda: told.append(True)) if is_watched else None)
        left.set()

    async with served(late) as it:
        client = it.connect()
        client.sendall(REQUEST)
        client.close()
        await left.wait()
    assert told == [True] * is_watched


@pytest.mark.slow
@pytest.mark.parametrize("app", [reads_first, answers_first])
async def test_a_request_leaves_nothing_to_the_garbage_collector(app: Any) -> None:
    """Its pauses would delay all requests."""
    async with served(app) as it:
        client = it.connect()
        await asyncio.to_thread(_ask, client)
        gc.collect()
        gc.disable()
        try:
            for _ in range(8):
                await asyncio.to_thread(_ask, client)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kept = [found for found in gc.garbage if isinstance(found, RequestCycle)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not kept


@pytest.mark.slow
async def test_a_client_that_left_leaves_nothing_to_the_garbage_collector() -> None:
    """Otherwise many that leave take memory until it runs."""
    async with served(reads_first) as it:
        gc.collect()
        gc.disable()
        try:
            for _ in range(4):
                assert await it.talk(HEAD + b"content-length: 9\r\n\r\nhi", shut=True) == b""
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kept = [found for found in gc.garbage if isinstance(found, RequestCycle | ClientConnection)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not kept


def _ask(client: socket.socket) -> None:
    client.sendall(REQUEST)
    got = b""
    while not got.endswith(b"ok"):
        got += client.recv(65_536)


@pytest.mark.parametrize("sent", [b"", b"POST / HT", HEAD, HEAD + b"content-length: 9\r\n\r\nhi", CHUNKED + b"2\r\nhi"])
async def test_a_client_that_shuts_its_sending_half_within_a_request_is_disconnected(sent: bytes) -> None:
    async with served(reads_first) as it:
        assert await it.talk(sent, shut=True) == b""


# Limits


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"x: " + b"a" * 70_000,
        HEAD + b"x: " + b"a" * 70_000 + b"\r\n\r\n",
        HEAD + b"a" * 70_000,
        b"POST /" + b"a" * 70_000,
        HEAD + b"".join(b"x%d: y\r\n" % at for at in range(200)) + b"\r\n",
        HEAD + b"".join(b"x%d: y\r\n" % at for at in range(10_000)),
        b"\r\n" * 40_000,
        REQUEST + HEAD + b"x: " + b"a" * 140_000,
    ],
    ids=["endless value", "large value", "endless name", "endless target", "many", "many, unended", "line ends", "2nd"],
)
async def test_a_head_beyond_its_limits_is_refused(sent: bytes) -> None:
    async with served(reads_first) as it:
        got = await it.talk(sent)
        assert error_of(got.removeprefix(await_first(got, sent))) == (431, "headers_too_large")
        assert it.broken[Broken.HEAD_SIZE] == 1


def await_first(got: bytes, sent: bytes) -> bytes:
    """The response to a first, good request."""
    return got[: got.index(b"\r\n\r\nok") + 6] if sent.startswith(REQUEST) else b""


async def test_a_head_within_its_limits_is_served() -> None:
    many = b"".join(b"x-%d: y\r\n" % at for at in range(98))
    async with served(echoes) as it:
        for extra in (many, b"x: " + b"a" * 65_000 + b"\r\n"):
            got = await it.talk(HEAD + extra + b"connection: close\r\n\r\n")
            assert status_of(got) == 200


@pytest.mark.parametrize("sent", [b"P", HEAD, HEAD + b"x: y", REQUEST + HEAD])
async def test_a_head_that_does_not_end_is_refused_in_time(sent: bytes) -> None:
    async with served(reads_first, head_s=0.05) as it:
        got = await it.talk(sent)
        assert error_of(got.removeprefix(await_first(got, sent))) == (408, "request_timeout")
        assert it.broken == {Broken.HEAD_TIMEOUT: 1}


@pytest.mark.parametrize(
    "sent", [HEAD + b"content-length: 9\r\n\r\nhi", CHUNKED, CHUNKED + b"2\r\nhi\r\n", CHUNKED + b"2"]
)
async def test_a_body_that_does_not_end_is_refused_in_time(sent: bytes) -> None:
    async with served(reads_first, body_s=0.05) as it:
        assert error_of(await it.talk(sent)) == (408, "request_timeout")
        assert it.broken == {Broken.BODY_TIMEOUT: 1}


async def test_a_trickling_body_is_refused_although_it_makes_progress() -> None:
    async with served(reads_first, body_s=0.1, body_bytes_per_s=1000) as it:
        client = it.connect()
        client.sendall(HEAD + b"content-length: 900000\r\n\r\n")
        received = asyncio.ensure_future(everything(client))
        while not received.done():
            with contextlib.suppress(OSError):
                client.sendall(b"x")
            await asyncio.sleep(0.01)
        assert error_of(received.result()) == (408, "request_timeout")


async def test_a_steady_slow_body_is_served() -> None:
    """Twice as fast as the minimum, for longer than the time without progress. Where the machine was too busy for the
    client to be that fast, it tries again."""
    status, slowest_s = 0, 1.0
    for _ in range(20):
        if status != 200 and slowest_s > 0.2:
            status, slowest_s = await status_of_a_slow_body(body_s=0.3, body_bytes_per_s=1000)
    assert status == 200


async def status_of_a_slow_body(**limits: Any) -> tuple[int, float]:
    """And the longest pause, in seconds, that the client made."""
    slowest_s = 0.0
    async with served(reads_first, **limits) as it:
        client = it.connect()
        client.sendall(HEAD + b"content-length: 2000\r\nconnection: close\r\n\r\n")
        sent_s = time.monotonic()
        for _ in range(20):
            with contextlib.suppress(OSError):  # it was too slow
                client.sendall(b"x" * 100)
            slowest_s, sent_s = max(slowest_s, time.monotonic() - sent_s), time.monotonic()
            await asyncio.sleep(0.03)
        return status_of(await everything(client)), slowest_s


async def test_a_body_that_the_application_does_not_read_has_no_limit_of_time() -> None:
    """The server itself has stopped reading."""
    go = asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await reads_first(scope, receive, send)

    async with served(waits, body_s=0.05) as it:
        client = it.connect()
        sending = asyncio.ensure_future(
            asyncio.to_thread(client.sendall, HEAD + b"content-length: %d\r\n\r\n" % LARGE + b"x" * LARGE)
        )
        await asyncio.sleep(0.2)
        go.set()
        await sending
        await answer_of(client)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_client_that_does_not_read_is_disconnected(whole: bool) -> None:
    """The application waits meanwhile, and holds no more than one part of its response."""
    sent, ended = [0], asyncio.Event()

    async def floods(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % (4 * LARGE))] if whole else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        leaving = asyncio.ensure_future(gone(receive))
        while not leaving.done():
            await send({"type": "http.response.body", "body": bytes(4 * LARGE if whole else 65_536), "more_body": True})
            sent[0] += 65_536
            await asyncio.sleep(0)
        ended.set()

    async def gone(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with served(floods, write_s=0.1) as it:
        client = it.connect()
        client.sendall(REQUEST)
        await ended.wait()
        assert sent[0] < LARGE
        assert it.broken == {Broken.WRITE_TIMEOUT: 1}


async def test_a_client_that_sends_requests_and_never_reads_is_disconnected() -> None:
    async def answers_at_length(scope: Any, receive: Any, send: Any) -> None:
        await send_ok(send, bytes(1 << 20))

    async with served(answers_at_length, write_s=0.1) as it:
        client = it.connect()
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 30)
        while not it.broken:  # noqa: ASYNC110 - the listener has no event for it
            await asyncio.sleep(0.01)
        assert it.broken == {Broken.WRITE_TIMEOUT: 1}
        await it.is_empty()


# Framing


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n" + END, 400),
        (HEAD + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n" + END, 400),
        (HEAD + b"content-length: 2\r\ncontent-length: 2\r\n\r\nhi", 400),
        (HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi", 400),
        (HEAD + b"content-length: 2, 2\r\n\r\nhi", 400),
        (HEAD + b"content-length: +2\r\n\r\nhi", 400),
        (HEAD + b"content-length: -2\r\n\r\nhi", 400),
        (HEAD + b"content-length: 0x2\r\n\r\nhi", 400),
        (HEAD + b"content-length: 99999999999999999999\r\n\r\nhi", 400),
        (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n" + END, 501),
        (HEAD + b"transfer-encoding: gzip\r\n\r\n" + END, 501),
        (HEAD + b"transfer-encoding: chunked, identity\r\n\r\n" + END, 400),
        (HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + END, 400),
        (HEAD + b"transfer-encoding:\x0bchunked\r\n\r\n" + END, 400),
        (HEAD + b"transfer-encoding : chunked\r\n\r\n" + END, 400),
        (HEAD.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n" + END, 400),
        (HEAD + b"a: b\r\n folded\r\n\r\n", 400),
        (HEAD + b"a: b\0c\r\n\r\n", 400),
        (HEAD + b"a\0: b\r\n\r\n", 400),
        (HEAD + b": b\r\n\r\n", 400),
        (HEAD + b"a: b\rc: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nhost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (HEAD + b"host: y\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"NONSENSE / HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET relative HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (HEAD + b"expect: miracles\r\n\r\n", 417),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (CHUNKED + b"2\r\nhiX\r\n" + END, 400),
        (CHUNKED + b"-2\r\nhi\r\n" + END, 400),
        (CHUNKED + b"2\nhi\n0\n\n", 400),
        (CHUNKED + b"xyz\r\n", 400),
        (CHUNKED + b"fffffffffffffffff\r\nhi\r\n" + END, 400),
        (CHUNKED + b"2;" + b"a" * 300_000, 400),
        (CHUNKED + b"1\r\nx\r\n" * 60_000, 400),
        (CHUNKED + b"0\r\n" + b"".join(b"t%d: x\r\n" % at for at in range(60_000)), 400),
    ],
)
async def test_a_request_that_is_ambiguous_or_malformed_is_refused(sent: bytes, expected: int) -> None:
    async with served(reads_first) as it:
        status, code = error_of(await it.talk(sent))
        assert (status, code) == (expected, "invalid_http")
        assert sum(it.broken.values()) == 1


@pytest.mark.parametrize(
    ("sent", "path", "body"),
    [
        (CHUNKED + b"2;a=b\r\nhi\r\n" + END, "/", "hi"),
        (CHUNKED + b"2\r\nhi\r\n0\r\nauthorization: Bearer x\r\n\r\n", "/", "hi"),
        (CHUNKED + b"1\r\nx\r\n" * 500 + END, "/", "x" * 500),
        (b"GET http://y:80/p HTTP/1.1\r\nhost: x\r\n\r\n", "/p", ""),
        (b"GET http://y HTTP/1.1\r\nhost: x\r\n\r\n", "/", ""),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", "*", ""),
        (b"GET /a%20b%2Fc HTTP/1.1\r\nhost: x\r\n\r\n", "/a b/c", ""),
        (b"\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n", "/", ""),
        (HEAD + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nhi", "/", "hi"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", "/", ""),
        (HEAD + b"x: a\t b \r\ncontent-length: 2\r\n\r\nhi", "/", "hi"),
    ],
)
async def test_a_request_in_an_unusual_but_valid_form_is_served(sent: bytes, path: str, body: str) -> None:
    async with served(echoes) as it:
        got = await it.talk(sent + b"GET /next HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        first, second = (json.loads(part[: part.index(b"}") + 1]) for part in got.split(b"\r\n\r\n")[1:])
        assert (first["path"], first["body"], second["path"]) == (path, body, "/next")
        assert all(name != "authorization" for name, _ in first["headers"])
        if b"http://y" in sent:
            assert dict(first["headers"])["host"].partition(":")[0] == "y"
        assert not it.broken


async def test_http_1_0_is_served_without_chunks_and_closed() -> None:
    async def streams(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"a", b"b"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"c"})

    async with served(streams) as it:
        head, _, body = (await it.talk(b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
    assert (b"transfer-encoding" in head, body) == (False, b"abc")


async def test_a_response_to_head_has_the_headers_and_no_body() -> None:
    async with served(answers_first) as it:
        got = await it.talk(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b"content-length: 2" in got
    assert got.endswith(b"\r\n\r\n")


async def test_the_body_is_asked_for_only_if_it_is_wanted() -> None:
    sent = HEAD + b"expect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n"
    async with served(reads_first) as it:
        client = it.connect()
        client.sendall(sent)
        assert await receive(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hi")
        await answer_of(client)
    async with served(answers_first) as it:
        client = it.connect()
        client.sendall(sent.replace(b"connection: close\r\n", b""))
        answer = await answer_of(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer  # what follows could be the body, or the next request


# Pipelines


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served(echoes) as it:
        sent = b"".join(b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n%d" % (at, at) for at in range(9))
        got = await it.talk(sent + b"GET /end HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" + b"ignored")
        paths = [json.loads(part[: part.index(b"}") + 1])["path"] for part in got.split(b"\r\n\r\n")[1:]]
    assert paths == [f"/{at}" for at in range(9)] + ["/end"]


async def test_a_long_pipeline_is_cut_after_complete_responses() -> None:
    async with served(reads_first, pipelined=4) as it:
        got = await it.talk(REQUEST * 5000)
        assert got.count(b"HTTP/1.1 200") == got.count(b"\r\n\r\nok") == 5
        assert got.count(b"connection: close") == 1
        assert it.broken == {Broken.PIPELINE: 1}


async def test_a_client_that_leaves_ends_all_its_pipelined_requests() -> None:
    app = Hanging()
    async with served(app) as it:
        client = it.connect()
        client.sendall(REQUEST * 3)
        await app.received.wait()
        client.close()
        await app.left.wait()
        await it.is_empty()


async def test_a_malformed_request_behind_others_is_refused_after_their_responses() -> None:
    async with served(reads_first) as it:
        got = await it.talk(REQUEST * 2 + b"NONSENSE\r\n")
    first, second, last = got.split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3], last[:3]) == (OK, OK, b"400")


# Applications that fail


@pytest.mark.parametrize("started", [False, True])
async def test_a_failing_application_ends_in_an_error_or_a_cut_stream(started: bool) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if started:
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("x")

    async with served(fails) as it:
        if started:
            assert (await it.talk(REQUEST)).endswith(b"\r\n\r\n4\r\nhalf\r\n")
        else:
            assert error_of(await it.talk(REQUEST)) == (500, "internal_error")


async def test_a_response_that_the_client_did_not_wait_for_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The connection may be closed before the request learns of it."""
    sent = asyncio.Event()

    async def answers(scope: Any, receive: Any, send: Any) -> None:
        [connection] = it.state.connections
        connection.close_now()
        await send_ok(send, bytes(LARGE))
        sent.set()

    async with served(answers) as it:
        it.connect().sendall(REQUEST)
        await sent.wait()
    assert caplog.text == ""


@pytest.mark.parametrize("header", [(b"x", b"a\r\nset-cookie: b"), (b"x\n", b"a"), (b"x", b"a\0")])
async def test_a_response_header_with_a_line_break_is_never_sent(header: tuple[bytes, bytes]) -> None:
    async def splits(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})
        await send({"type": "http.response.body", "body": b""})

    async with served(splits) as it:
        got = await it.talk(REQUEST)
        assert error_of(got) == (500, "internal_error")
        assert b"set-cookie" not in got


async def test_a_request_cancelled_at_shutdown_gets_a_typed_response() -> None:
    app = Hanging()
    async with served(app) as it:
        client = it.connect()
        client.sendall(REQUEST)
        await app.received.wait()
        for task in it.state.tasks:
            task.cancel()
        assert error_of(await everything(client)) == (503, "draining")

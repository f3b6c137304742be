"""Requests that are made to be misunderstood: each ends in one typed response or a close, and nothing is left of it."""

import asyncio
import contextlib
import json
import os
import random
import re
from typing import Any

import pytest

from tests.twolane.process.http.listening import (
    CHUNKED,
    END,
    HEAD,
    REQUEST,
    Hanging,
    echoes,
    error_of,
    everything,
    reads_first,
    receive,
    served,
    status_of,
)
from twolane.process.http.byte_budget import ByteBudget

pytestmark = pytest.mark.anyio
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
LAST = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /\r\n\r\n", 505),  # HTTP/0.9
        (b"get / HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /a\0b HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /caf\xc3\xa9 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /a\x7fb HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.10\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n host: x\r\n\r\n", 400),
        (b"GET http://:80/ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET http://y:99999/ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT / HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (HEAD + b"content-length: 2\r\n\r\nhiNONSENSE", 200),
        (HEAD + b"content-length:\r\n\r\nhi", 400),
        (HEAD + b"content-length: 2 2\r\n\r\nhi", 400),
        (HEAD + b"content-length: 2;a\r\n\r\nhi", 400),
        (HEAD + b"content-length: 2\x0b\r\n\r\nhi", 400),
        (HEAD + b"transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n" + END, 400),
        (HEAD + b"transfer-encoding: xchunked\r\n\r\n" + END, 501),
        (HEAD + b"transfer-encoding: chunked, chunked\r\n\r\n" + END, 400),
        (HEAD + b"transfer-encoding: identity\r\ncontent-length: 2\r\n\r\nhi", 501),
        (HEAD + b"transfer-encoding:\r\ncontent-length: 2\r\n\r\nhi", 400),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n0x2\r\nhi\r\n" + END, 400),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n2 \r\nhi\r\n" + END, 400),
        (CHUNKED + b"\r\n2\r\nhi\r\n" + END, 400),
        (CHUNKED + b"2\rhi\r\n" + END, 400),
        (CHUNKED + b"2;a\nb\r\nhi\r\n" + END, 400),
        (CHUNKED + b"2\r\nhi\r\n0\r\nbad trailer\r\n\r\n", 400),
        (HEAD + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (HEAD + b"expect: 100-continue\r\nexpect: miracles\r\n\r\n", 417),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00", 400),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", 400),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", 400),
    ],
)
async def test_a_request_that_parsers_understand_differently_ends_in_one_response(sent: bytes, status: int) -> None:
    async with served(reads_first, body_s=0.2, head_s=0.2, keep_alive_s=0.2, linger_s=0.05) as it:
        got = await it.talk(sent)
        if status == 200:
            got = got[got.index(b"\r\n\r\nok") + 6 :]
            status = 400
        assert error_of(got) == (status, "invalid_http")
        await it.is_empty()


@pytest.mark.parametrize(
    ("sent", "path", "body", "host"),
    [
        (b"GET http://[::1]:80/p HTTP/1.1\r\nhost: x\r\n\r\n", "/p", "", "[::1]:80"),
        (b"GET http://[::1]/p HTTP/1.1\r\nhost: x\r\n\r\n", "/p", "", "[::1]"),
        (b"GET HTTP://Y/p?q#f HTTP/1.1\r\nhost: x\r\n\r\n", "/p", "", "Y"),
        (b"GET /%ff%00%0d%0a HTTP/1.1\r\nhost: x\r\n\r\n", "/\ufffd\0\r\n", "", "x"),
        (b"GET //double//slash HTTP/1.1\r\nhost: x\r\n\r\n", "//double//slash", "", "x"),
        (b"GET /../../etc HTTP/1.1\r\nhost: x\r\n\r\n", "/../../etc", "", "x"),
        (CHUNKED + b"0002\r\nhi\r\n000\r\n\r\n", "/", "hi", "x"),
        (CHUNKED + b"A\r\n0123456789\r\n" + END, "/", "0123456789", "x"),
        (HEAD + b"Transfer-Encoding:\t CHUNKED \r\n\r\n2\r\nhi\r\n" + END, "/", "hi", "x"),
        (HEAD + b"content-length: 0002\r\n\r\nhi", "/", "hi", "x"),
        (HEAD + b"content-length: 0\r\nexpect: 100-continue\r\n\r\n", "/", "", "x"),
        (b"GET  / HTTP/1.1\r\nhost: x\r\n\r\n", "/", "", "x"),
        (GET + b"x: \xff\xfe\r\n\r\n", "/", "", "x"),
        (GET + b"x:\r\n\r\n", "/", "", "x"),
        (GET + b"connection: upgrade\r\n\r\n", "/", "", "x"),
        (GET + b"upgrade: h2c\r\n\r\n", "/", "", "x"),
        (CHUNKED[:-2] + b"connection: upgrade\r\nupgrade: x\r\n\r\n2\r\nhi\r\n" + END, "/", "hi", "x"),
    ],
)
async def test_a_request_in_an_odd_but_valid_form_is_read_as_meant(
    sent: bytes, path: str, body: str, host: str
) -> None:
    async with served(echoes) as it:
        got = await it.talk(sent + LAST)
        first, second = (json.loads(part[: part.rindex(b"}") + 1]) for part in got.split(b"\r\n\r\n")[1:])
    assert (first["path"], first["body"], second["path"]) == (path, body, "/last")
    assert dict(first["headers"])["host"] == host


@pytest.mark.parametrize("size", [b"ffffffffffffffff", b"7fffffffffffffff", b"80000000"])
async def test_a_chunk_of_absurd_size_is_awaited_no_longer_than_any_body(size: bytes) -> None:
    budget = ByteBudget(1_000_000)
    async with served(reads_first, body_s=0.1, linger_s=0.05, budget=budget) as it:
        assert error_of(await it.talk(CHUNKED + size + b"\r\n" + b"x" * 1000)) == (408, "request_timeout")
        await it.is_empty()
    assert budget.used == 0


async def test_a_last_chunk_that_comes_late_completes_the_request() -> None:
    async with served(reads_first) as it:
        client = it.connect()
        client.sendall(CHUNKED + b"2\r\nhi\r\n")
        await asyncio.sleep(0.1)
        client.sendall(END + LAST)
        assert (await everything(client)).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("keep", [b"", b"connection: keep-alive\r\n"])
async def test_http_1_0_gets_one_response_and_a_close_whatever_it_asks_for(keep: bytes) -> None:
    async with served(reads_first) as it:
        got = await it.talk(b"GET / HTTP/1.0\r\n" + keep + b"\r\n" + b"GET /2 HTTP/1.0\r\n\r\n")
    assert got.count(b"HTTP/1.1 200") == 1
    assert b"\r\nconnection: close\r\n" in got


async def test_http_1_0_is_sent_no_interim_response() -> None:
    async with served(reads_first) as it:
        sent = b"POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi"
        assert (await it.talk(sent)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("second", [REQUEST, b"NONSENSE\r\n\r\n", HEAD + b"content-length: 9\r\n\r\nhi", b"GET /"])
async def test_what_follows_a_slow_request_does_not_disturb_it(second: bytes) -> None:
    """A request, garbage, or a part of either, which is refused only behind the first response."""
    app = Hanging()
    async with served(app, head_s=0.05, body_s=0.05) as it:
        client = it.connect()
        client.sendall(REQUEST + second)
        await app.received.wait()
        await asyncio.sleep(0.2)
        app.go.set()
        got = b""
        while b"\r\n\r\nok" not in got:
            got += await receive(client)
        assert status_of(got) == 200
        client.close()


async def test_connections_of_every_kind_leave_no_descriptor_and_no_byte() -> None:
    budget = ByteBudget(10_000_000)
    async with served(reads_first, budget=budget, head_s=0.2, body_s=0.2, linger_s=0.2, keep_alive_s=0.2) as it:
        await it.talk(LAST)
        await it.is_empty()
        it.clients.pop().close()
        before = len(os.listdir("/proc/self/fd"))
        large = HEAD + b"content-length: 100000\r\n\r\n" + b"x" * 90_000
        for each in (b"", b"GET", HEAD, large, CHUNKED + b"5\r\nab", REQUEST) * 20:
            client = await asyncio.to_thread(it.connect)
            await asyncio.to_thread(client.sendall, each)
            if len(it.clients) % 3 == 0:
                client.close()
        async with asyncio.timeout(60):
            await it.is_empty()
        for client in it.clients:
            client.close()
        assert (len(os.listdir("/proc/self/fd")), budget.used) == (before, 0)


ODD = (b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"content-length: 1\r\n", b"transfer-encoding: chunked\r\n")


def mutated(source: random.Random) -> bytes:
    """A sequence of valid requests with a few bytes replaced, removed, repeated or inserted."""
    chunked = CHUNKED + b"2;a=b\r\nhi\r\n0\r\nt: x\r\n\r\n" + REQUEST
    whole = bytearray(source.choice([REQUEST * 2, chunked, GET + b"\r\n", LAST]))
    for _ in range(source.randrange(1, 6)):
        at = source.randrange(len(whole))
        match source.randrange(4):
            case 0:
                whole[at] = source.randrange(256)
            case 1:
                del whole[at : at + source.randrange(1, 9)]
            case 2:
                whole[at:at] = whole[at : at + source.randrange(1, 40)]
            case _:
                whole[at:at] = source.choice(ODD)
        if not whole:
            whole += b"x"
    return bytes(whole)


@pytest.mark.parametrize("seed", range(2))
async def test_mutated_requests_end_in_well_formed_responses_or_a_close(seed: int) -> None:
    """And never in an internal error."""
    source, budget = random.Random(seed), ByteBudget(1_000_000)
    async with served(reads_first, budget=budget, head_s=0.1, body_s=0.1, linger_s=0.1, keep_alive_s=0.1) as it:
        for _ in range(3):
            sent = [mutated(source) for _ in range(20)]
            for each, got in zip(sent, await asyncio.gather(*(talk(it, each) for each in sent)), strict=True):
                statuses = {int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", got)}
                assert statuses <= {100, 200, 400, 408, 417, 431, 501, 505}, (each, got)
                assert got == b"" or got.startswith(b"HTTP/1.1 "), (each, got)
        assert budget.used == 0


async def talk(it: Any, sent: bytes) -> bytes:
    with contextlib.suppress(ConnectionError):
        return bytes(await it.talk(sent, shut=bool(sent[0] % 2)))
    return b""

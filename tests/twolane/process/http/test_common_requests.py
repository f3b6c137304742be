"""A request that arrives in one read is served as the parser would have it served."""

import asyncio
import re
import socket

import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from tests.twolane.process.http.listening import Wire, echoes
from twolane.process.http import compiled, connection
from twolane.process.http.byte_budget import ByteBudget
from twolane.process.http.connection import Listener
from twolane.process.http.limits import HttpLimits

pytestmark = pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled readers are not built")

REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nX-A:  b \r\nContent-Length: 5\r\n\r\nhello"
ODD = st.sampled_from(
    [
        *(
            b"",
            b"\r",
            b"\n",
            b"\r\n",
            b" ",
            b"\t",
            b"\0",
            b"\x80",
            b":",
            b"4",
            b"6",
            b"+5",
            b"05",
            b"HTTP/1.0",
            b"GET",
            b"%41",
        ),
        *(b"\r\nHost: b", b"\r\nExpect: 100-continue", b"\r\nTransfer-Encoding: chunked", b"\r\nConnection: close"),
        *(b"\r\nUpgrade: h2c\r\nConnection: Upgrade", b"\r\nContent-Length: 5", b"?q=1", REQUEST),
    ]
)


def play(data: bytes, budget: ByteBudget | None = None, *, earlier: int = 0) -> tuple[bytes, bool, list[str]]:
    """What a connection that has served one request sends for these bytes, whether it closes, and what it refused.
    `earlier`: requests for as many other paths before."""

    async def run() -> tuple[bytes, bool, list[str]]:
        config, state, loop = uvicorn.Config(echoes, lifespan="off"), ServerState(), asyncio.get_running_loop()
        config.load()
        refused: list[str] = []
        limits = HttpLimits(head_bytes=2000, headers=6)
        made = Listener(limits, refused.append, budget=budget)(config, state, {}, loop)
        with socket.socket() as real:
            wire = Wire(real)
            made.connection_made(wire)
            others = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(earlier)]
            for each in (*others, REQUEST.replace(b"hello", b"first"), data):
                wire.sent = b""
                made.data_received(each)
                while state.tasks:
                    await asyncio.gather(*state.tasks)
            made.connection_lost(None)
            while state.tasks:
                await asyncio.gather(*state.tasks)
        return wire.sent, wire.is_closed, refused

    return asyncio.run(run())


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), ODD), max_size=2))
@example([])
@example([(len(REQUEST) - 7, 0, b"\r\na: b" * 4)])
def test_the_response_is_the_same_as_by_the_parser(edits: list[tuple[int, int, bytes]]) -> None:
    data = REQUEST
    for at, cut, put in edits:
        data = data[: at % (len(data) + 1)] + put + data[at % (len(data) + 1) + cut :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "read_request", lambda *_: None)
        by_parser = play(data)
    assert play(data) == by_parser


def test_the_parser_sees_no_common_request(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    take = connection.ClientConnection._take
    monkeypatch.setattr(connection.ClientConnection, "_take", lambda it, data: (parsed.append(data), take(it, data))[1])
    assert b'"body": "hello"' in play(REQUEST)[0]
    assert parsed == [REQUEST.replace(b"hello", b"first")]
    parsed.clear()
    play(REQUEST, earlier=100)  # paths that somebody tries do not displace this one
    assert REQUEST not in parsed


def test_a_body_that_does_not_fit_into_the_budget_is_refused() -> None:
    budget = ByteBudget(6)
    sent, _, refused = play(REQUEST.replace(b"5\r\n\r\nhello", b"7\r\n\r\nwelcome"), budget)
    assert re.match(rb"HTTP/1\.1 503 ", sent)
    assert set(refused) == {"byte_budget"}
    assert budget.used == 0

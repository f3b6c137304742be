"""What a connection does for requests that no application reads yet, or any longer: their bytes are counted, every
response has the headers that browsers need, and nothing is left of them."""

import asyncio
import contextlib
from contextvars import ContextVar
from typing import Any

import pytest

from tests.twolane.process.http.listening import (
    CHUNKED,
    HEAD,
    REQUEST,
    Hanging,
    answers_first,
    chunks_of,
    error_of,
    everything,
    reads_first,
    receive,
    send_ok,
    served,
    status_of,
)
from twolane.process.http import connection
from twolane.process.http.byte_budget import ByteBudget
from twolane.process.http.connection import BUFFERED_BYTES
from twolane.process.http.limits import Broken

pytestmark = pytest.mark.anyio
MARK = ContextVar("MARK", default="")


class Queue:
    """Requests that wait for their turn, as those of an overloaded gateway do."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def arrive(self, connection: Any, cycle: Any) -> None:
        self.waiting.append((connection, cycle))

    def start_all(self) -> None:
        for held, cycle in self.waiting:
            held.start(cycle)

    async def has(self, count: int) -> None:
        while len(self.waiting) < count:  # noqa: ASYNC110 - the connection has no event for it
            await asyncio.sleep(0.001)


def posted(size: int, sent: int | None = None) -> bytes:
    """A request with a body, of which the end may be missing."""
    return HEAD + b"content-length: %d\r\n\r\n" % size + b"x" * (size if sent is None else sent)


async def until_used(budget: ByteBudget, size: int) -> None:
    async with asyncio.timeout(120):
        while budget.used != size:  # noqa: ASYNC110 - the budget has no event for it
            await asyncio.sleep(0.001)


async def test_bodies_that_nobody_reads_yet_are_counted_and_released_however_they_end() -> None:
    budget, queue = ByteBudget(1_000_000), Queue()
    async with served(reads_first, arrive=queue.arrive, budget=budget) as it:
        clients = [it.connect() for _ in range(3)]
        for client in clients:
            client.sendall(posted(20_000))
        await queue.has(3)
        await until_used(budget, 60_000)
        clients[0].close()  # leaves
        queue.waiting[1][1].respond(503, [(b"content-length", b"0")], b"")
        await until_used(budget, 20_000)
        queue.waiting[2][0].start(queue.waiting[2][1])
        await receive(clients[2])
        await until_used(budget, 0)


async def test_a_body_that_waits_beyond_the_budget_is_refused_and_not_kept() -> None:
    budget, queue = ByteBudget(100_000), Queue()
    async with served(reads_first, arrive=queue.arrive, budget=budget) as it:
        clients = [it.connect() for _ in range(20)]
        for client in clients:
            client.sendall(posted(30_000))
        refused = [got for got in await asyncio.gather(*map(end_of, clients[3:])) if got]
        assert {error_of(got) for got in refused} == {(503, "overloaded")}
        assert all(b"\r\nretry-after: 1\r\n" in got for got in refused)
        assert (len(refused), budget.used) == (17, 90_000)
        assert it.broken == {Broken.BYTE_BUDGET: 17}
    assert budget.used == 0


async def end_of(client: Any) -> bytes:
    return await everything(client)


async def test_a_waiting_request_holds_little_of_a_large_body_until_it_starts() -> None:
    """What is not read yet stays with the client."""
    size, queue = 8 << 20, Queue()
    budget = ByteBudget(2 * size)
    async with served(reads_first, arrive=queue.arrive, budget=budget) as it:
        client = it.connect()
        sending = asyncio.ensure_future(asyncio.to_thread(client.sendall, posted(size)))
        await queue.has(1)
        while budget.used < BUFFERED_BYTES:  # noqa: ASYNC110 - the budget has no event for it
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert budget.used <= BUFFERED_BYTES + (256 << 10)
        queue.start_all()
        await sending
        assert status_of(await receive(client)) == 200
        await until_used(budget, 0)


def added(headers: Any) -> Any:
    """What an application needs to know of the request: here, whose it is."""
    return [(b"x-for", value) for name, value in headers if name == b"x-from"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + b"x-from: me\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (HEAD + b"x-from: me\r\nx: y", 408),
        (HEAD + b"x-from: me\r\ncontent-length: 5\r\n\r\nhi", 408),
        (HEAD + b"x-from: me\r\nexpect: miracles\r\n\r\n", 417),
        (HEAD + b"x-from: me\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (HEAD + b"x-from: me\r\ncontent-length: 9000\r\n\r\n" + b"x" * 9000, 503),
        (HEAD + b"x-from: me\r\nfail: 1\r\n\r\n", 500),
        (HEAD + b"x-from: me\r\nconnection: close\r\n\r\n", 200),
    ],
)
async def test_every_response_has_the_added_headers_whoever_makes_it(sent: bytes, status: int) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        if (b"fail", b"1") in scope["headers"]:
            raise ValueError("x")
        await reads_first(scope, receive, send)

    async with served(fails, added=added, budget=ByteBudget(8000), head_s=0.05, body_s=0.05) as it:
        got = await it.talk(sent)
    assert status_of(got) == status
    assert got.count(b"\r\nx-for: me\r\n") == 1


async def test_an_error_behind_another_response_has_the_headers_of_its_own_request() -> None:
    async with served(reads_first, added=added) as it:
        first = REQUEST.replace(b"host: x", b"host: x\r\nx-from: first")
        got = await it.talk(first + HEAD + b"x-from: second\r\nexpect: miracles\r\n\r\n")
    assert [part[: part.index(b"\r\n")] for part in got.split(b"x-for: ")[1:]] == [b"first", b"second"]


@pytest.mark.parametrize("is_pipelined", [False, True])
async def test_a_request_does_not_see_the_variables_of_the_one_before(is_pipelined: bool) -> None:
    seen: list[str] = []

    async def marks(scope: Any, receive: Any, send: Any) -> None:
        seen.append(MARK.get())
        MARK.set("of another request")
        await reads_first(scope, receive, send)

    MARK.set("of the server's start")
    async with served(marks) as it:
        client = it.connect()
        for _ in range(1 if is_pipelined else 3):
            client.sendall(REQUEST * (3 if is_pipelined else 1))
            await receive(client)
        while len(seen) < 3:  # noqa: ASYNC110 - read in parts
            await asyncio.sleep(0.001)
    assert seen == [""] * 3


@pytest.mark.parametrize("announced", [False, True])
async def test_a_part_that_is_cancelled_half_way_is_sent_whole(announced: bool) -> None:
    """What the application sends next, such as an error event, never continues the first half."""
    whole = b"data: " + b"x" * (4 << 20) + b"\n\n"
    sending = asyncio.Event()

    async def streams(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % (len(whole) + 4))] if announced else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with contextlib.suppress(asyncio.CancelledError):
            sending.set()
            await send({"type": "http.response.body", "body": whole, "more_body": True})
        await send({"type": "http.response.body", "body": b"last"})

    async with served(streams) as it:
        client = it.connect()
        client.sendall(REQUEST.replace(b"host: x", b"host: x\r\nconnection: close"))
        await sending.wait()
        await asyncio.sleep(0.05)  # the client does not read: the application waits within the part
        for task in it.state.tasks:
            task.cancel()
        body = (await everything(client)).partition(b"\r\n\r\n")[2]
    assert (body if announced else chunks_of(body)) == whole + b"last"


async def test_a_whole_response_that_is_cancelled_half_way_is_complete() -> None:
    body, sending = b"x" * (4 << 20), asyncio.Event()

    async def answers(scope: Any, receive: Any, send: Any) -> None:
        sending.set()
        await send_ok(send, body)

    async with served(answers) as it:
        client = it.connect()
        client.sendall(REQUEST.replace(b"host: x", b"host: x\r\nconnection: close"))
        await sending.wait()
        await asyncio.sleep(0.05)
        for task in it.state.tasks:
            task.cancel()
        assert (await everything(client)).partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("sent", [posted(9, 2), CHUNKED + b"2\r\nhi\r\n"])
async def test_a_body_whose_response_was_sent_does_not_hold_up_the_shutdown(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although its connection would be kept otherwise, for as long as a client may linger."""
    monkeypatch.setattr(connection, "QUIET_S", 0.05)
    async with served(answers_first) as it:
        client = it.connect()
        client.sendall(sent)
        assert status_of(await receive(client)) == 200
        async with asyncio.timeout(120):
            it.connection.shutdown()
            await it.is_empty()


async def test_a_request_that_waits_is_forgotten_when_its_client_leaves() -> None:
    """Also its body, while something still refers to the request."""
    budget, queue = ByteBudget(1_000_000), Queue()
    async with served(Hanging(), arrive=queue.arrive, budget=budget) as it:
        client = it.connect()
        client.sendall(posted(50_000))
        await queue.has(1)
        await until_used(budget, 50_000)
        client.close()
        await until_used(budget, 0)
        assert queue.waiting[0][1].buffered_bytes == 0

"""Connections are handed to processes that take them, and return from those that do not."""

import asyncio
import contextlib
import os
import resource
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.server.dispatcher import Dispatcher
from gateway.server.handover import _FULL_S, REPORT, Handover
from gateway.server.receiver import Receiver

pytestmark = pytest.mark.anyio


class Process:
    """A process's end in this one: answers every connection with its name, and closes it."""

    def __init__(self, name: str, channel: socket.socket) -> None:
        self.name = name
        self.taken = 0
        self.channel = channel
        self.parent_is_gone = asyncio.Event()
        self.receiver = Receiver(
            channel, adopt=self.adopt, connections=lambda: 0, on_parent_gone=self.parent_is_gone.set
        )

    async def adopt(self, connection: socket.socket) -> None:
        _, writer = await asyncio.open_connection(sock=connection)
        self.taken += 1
        writer.write(self.name.encode())
        writer.close()
        await writer.wait_closed()


class Parent:
    """A dispatcher whose loop runs in a thread."""

    def __init__(self, expected: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = self.listener.getsockname()
        self.selector = selectors.DefaultSelector()
        self.dispatcher = Dispatcher(self.listener, self.selector, expected=expected)
        self.processes: list[Process] = []
        self.is_running = True
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while self.is_running:
            events = self.selector.select(0.01)
            with self.lock:
                for key, _ in events:
                    self.dispatcher.handle(key.data)
                self.dispatcher.update()

    def add(self, number: int, name: str, *, starts: bool = True) -> Process:
        with self.lock:
            process = Process(name, self.dispatcher.add(number))
        self.processes.append(process)
        if starts:
            process.receiver.start()
        return process

    def is_done(self) -> bool:
        with self.lock:
            return self.dispatcher.is_done

    def close(self) -> None:
        self.is_running = False
        self.thread.join()
        for number in range(10):
            self.dispatcher.remove(number)
        for process in self.processes:
            process.receiver.close()
            process.channel.close()
        self.selector.close()
        self.listener.close()


@contextlib.contextmanager
def parent(expected: int = 2) -> Iterator[Parent]:
    made = Parent(expected)
    made.thread.start()
    try:
        yield made
    finally:
        made.close()


async def names(address: Any, count: int) -> list[str]:
    """Connect, and read the name of the process that answers."""

    async def one() -> str:
        reader, writer = await asyncio.open_connection(*address)
        try:
            return (await reader.read(1)).decode()
        finally:
            writer.close()

    async with asyncio.timeout(120):
        return list(await asyncio.gather(*(one() for _ in range(count))))


async def test_connections_are_accepted_once_all_processes_have_started_and_then_balanced() -> None:
    with parent() as made:
        first, second = made.add(1, "a"), made.add(2, "b", starts=False)
        asking = asyncio.create_task(names(made.address, 64))
        await asyncio.sleep(0.05)
        assert not first.taken
        second.receiver.start()
        assert max(Counter(await asking).values()) <= 48


async def test_what_a_process_did_not_take_before_it_stopped_goes_to_another_one() -> None:
    with parent() as made:
        first, _ = made.add(1, "a"), made.add(2, "b")
        assert set(await names(made.address, 10)) == {"a", "b"}
        first.receiver._loop.remove_reader(first.receiver._channel.fileno())  # it hangs
        asking = asyncio.create_task(names(made.address, 20))
        while not made.dispatcher._processes[1].pending:  # noqa: ASYNC110 - state of another thread
            await asyncio.sleep(0.005)
        first.receiver.close()
        assert await asking == ["b"] * 20


async def test_where_no_process_is_left_connections_wait_for_the_next_one() -> None:
    with parent(expected=1) as made:
        first = made.add(1, "a")
        assert await names(made.address, 3) == ["a"] * 3
        first.receiver.close()
        asking = asyncio.create_task(names(made.address, 5))
        await asyncio.sleep(0.05)
        made.add(2, "b")
        assert await asking == ["b"] * 5


async def test_a_process_that_hangs_gets_no_more_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.server.dispatcher.STALLED_S", 0.2)
    with parent() as made:
        first, _ = made.add(1, "a"), made.add(2, "b")
        await names(made.address, 10)
        first.receiver._loop.remove_reader(first.receiver._channel.fileno())
        asking = asyncio.create_task(names(made.address, 4))
        hung = made.dispatcher._processes[1]
        while (since_s := hung.waiting_since_s) is None or time.monotonic() - since_s <= 0.2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert await names(made.address, 20) == ["b"] * 20
        first.receiver.close()
        await asking


async def test_a_process_notices_the_end_of_its_parent() -> None:
    with parent(expected=1) as made:
        process = made.add(1, "a")
        await names(made.address, 1)
        with made.lock:
            made.dispatcher.remove(1)
        async with asyncio.timeout(120):
            await process.parent_is_gone.wait()


async def test_at_its_end_the_dispatcher_hands_over_everything_that_waits_and_accepts_no_more() -> None:
    """More than it accepts in one turn, and although no process takes any for a while."""
    with parent(expected=1) as made:
        waiting = [socket.create_connection(made.address) for _ in range(200)]
        process = made.add(1, "a", starts=False)
        with made.lock:
            made.dispatcher.close()
        assert not made.dispatcher.is_done
        process.receiver.start()
        while not made.is_done():  # noqa: ASYNC110 - state of another thread
            await asyncio.sleep(0.005)
        with made.lock:
            made.dispatcher.finish()
        for each in waiting:
            each.settimeout(120)
            assert await asyncio.to_thread(each.recv, 1) == b"a"
            each.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(made.address)


async def test_while_it_closes_no_connection_begins() -> None:
    """One that begins just before the listening socket is closed would be reset."""
    with parent(expected=1) as made:
        with made.lock:
            made.dispatcher.close()
        with socket.socket() as late:
            late.setblocking(False)
            connecting = asyncio.create_task(asyncio.get_running_loop().sock_connect(late, made.address))
            await asyncio.sleep(0.2)
            assert not connecting.done()
            with made.lock:
                made.dispatcher.finish()
            with pytest.raises(ConnectionRefusedError):
                await connecting


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process has as many open files as it may have."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Channel:
    """Both ends of a channel, driven by hand."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.handover = Handover(ours)
        self.process = Process("a", theirs)
        self.process.receiver.start()

    def send(self, count: int) -> list[socket.socket]:
        """The clients of so many connections."""
        clients = []
        for _ in range(count):
            client, connection = socket.socketpair()
            assert self.handover.send(connection, 0.0)
            clients.append(client)
        return clients

    def close(self) -> None:
        self.process.receiver.close()
        self.process.channel.close()
        for connection in self.handover.close():
            connection.close()


@pytest.fixture
async def channel() -> AsyncIterator[Channel]:
    made = Channel()
    yield made
    made.close()


async def test_a_connection_whose_descriptor_the_process_cannot_take_returns(channel: Channel) -> None:
    """And the others of the same batch are taken by the right process: none is closed, none is served twice."""
    [first] = channel.send(1)
    channel.process.receiver._read()
    lost = channel.send(2)
    with no_descriptors_left():
        channel.process.receiver._read()
    [last] = channel.send(1)
    channel.process.receiver._read()
    assert channel.handover.read(now_s=7.0)
    returned = channel.handover.take_returned()
    assert channel.handover.pending == 0
    assert channel.handover.full_until_s == 7.0 + _FULL_S
    assert len(returned) == 2
    for client, connection in zip(lost, returned, strict=True):
        connection.send(b"b")
        assert client.recv(1) == b"b"
        connection.close()
    for client in (first, last):
        assert await asyncio.to_thread(client.recv, 1) == b"a"
    for client in (first, last, *lost):
        client.close()


async def test_a_process_without_descriptors_gets_no_connections_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    full, lost, receive = set[socket.socket](), list[int](), socket.recv_fds

    def recv_fds(channel: socket.socket, *sizes: int) -> Any:
        data, descriptors, flags, address = receive(channel, *sizes)
        if channel not in full:
            return data, descriptors, flags, address
        lost.extend(descriptors)
        for each in descriptors:
            os.close(each)
        return data, [], socket.MSG_CTRUNC, address

    monkeypatch.setattr(socket, "recv_fds", recv_fds)
    monkeypatch.setattr("gateway.server.handover._FULL_S", 3600.0)
    with parent() as made:
        first, _ = made.add(1, "a"), made.add(2, "b")
        assert set(await names(made.address, 10)) == {"a", "b"}
        full.add(first.channel)
        assert await names(made.address, 20) == ["b"] * 20
        assert 1 <= len(lost) <= 20
        full.clear()
        with made.lock:
            assert made.dispatcher._processes[1].full_until_s > time.monotonic() + 3000
            made.dispatcher._processes[1].full_until_s = time.monotonic()
        assert "a" in await names(made.address, 10)


async def test_all_reports_of_a_process_are_read_at_its_end(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that it has taken is served by nobody else."""
    monkeypatch.setattr("gateway.server.handover._READ_BYTES", 10)
    for _ in range(20):
        [client] = channel.send(1)
        channel.process.receiver._read()
        assert await asyncio.to_thread(client.recv, 1) == b"a"
        client.close()
    channel.process.receiver.close()
    assert not channel.handover.read(now_s=0.0)
    assert channel.handover.pending == 0


async def test_a_connection_is_not_read_before_the_parent_knows_that_it_was_taken(channel: Channel) -> None:
    """Else it could be handed to another process that lacks the bytes which were read."""
    receiver = channel.process.receiver
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver._channel.send(REPORT.pack(0, 0, False) * 100)  # the parent does not read
    clients = channel.send(3)
    receiver._read()
    await asyncio.sleep(0.05)
    assert channel.process.taken == 0
    receiver.close()
    channel.handover.read(now_s=0.0)
    assert channel.handover.pending == 3
    for client in clients:
        client.close()


async def test_a_process_notices_the_end_of_a_parent_that_has_not_read_for_long(channel: Channel) -> None:
    receiver = channel.process.receiver
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver._channel.send(REPORT.pack(0, 0, False) * 100)
    [client] = channel.send(1)
    receiver._read()
    channel.handover.channel.close()
    async with asyncio.timeout(120):
        await channel.process.parent_is_gone.wait()
    client.close()


async def test_a_process_takes_connections_again_when_its_parent_reads_again(channel: Channel) -> None:
    receiver = channel.process.receiver
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver._channel.send(REPORT.pack(0, 0, False) * 100)
    clients = channel.send(3)
    receiver._read()
    channel.handover.read(now_s=0.0)
    for client in clients:
        assert await asyncio.to_thread(client.recv, 1) == b"a"
        client.close()

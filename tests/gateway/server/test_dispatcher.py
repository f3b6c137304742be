"""Connections are handed to processes that take them, and return from those that do not."""

import asyncio
import contextlib
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.server.dispatcher import Dispatcher
from gateway.server.handover import Receiver

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

    async with asyncio.timeout(60):
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
        while made.dispatcher.pending < 5:  # noqa: ASYNC110 - state of another thread
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
    monkeypatch.setattr("gateway.server.dispatcher.STALLED_S", 0.05)
    with parent() as made:
        first, _ = made.add(1, "a"), made.add(2, "b")
        await names(made.address, 10)
        first.receiver._loop.remove_reader(first.receiver._channel.fileno())
        asking = asyncio.create_task(names(made.address, 4))
        while not made.dispatcher.pending:  # noqa: ASYNC110 - state of another thread
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert await names(made.address, 20) == ["b"] * 20
        first.receiver.close()
        await asking


async def test_a_process_notices_the_end_of_its_parent() -> None:
    with parent(expected=1) as made:
        process = made.add(1, "a")
        await names(made.address, 1)
        with made.lock:
            made.dispatcher.remove(1)
        async with asyncio.timeout(60):
            await process.parent_is_gone.wait()


async def test_at_its_end_the_dispatcher_hands_over_what_waits_and_accepts_no_more() -> None:
    with parent(expected=1) as made:
        waiting = [socket.create_connection(made.address) for _ in range(3)]
        process = made.add(1, "a")
        while made.dispatcher.pending or not process.taken:  # noqa: ASYNC110 - state of another thread
            await asyncio.sleep(0.005)
        with made.lock:
            made.dispatcher.close()
        for each in waiting:
            each.settimeout(60)
            assert await asyncio.to_thread(each.recv, 1) == b"a"
            each.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(made.address)

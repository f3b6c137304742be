"""Real Redis servers fail over, and the gateway's client heals by itself within a few exchanges."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.enums import LaneState, Reason
from gateway.reliability.daily_budgets import DailyBudgets
from gateway.state import decision_stream, redis_response_store, shared_budgets
from gateway.state import redis as product
from gateway.state.decision_stream import DecisionStream
from gateway.state.redis_address import read_address
from gateway.state.redis_client import RedisClient
from gateway.state.redis_response_store import open_response_store
from gateway.state.response_store import StoredResponse
from gateway.state.shared_budgets import SharedBudgets
from tests.gateway.redis_server import RedisServer, redis_server
from tests.gateway.state.peers import Peer, RealClock, settle
from tests.gateway.state.redis_fleet import RIGHTS, SERVICE, Certificates, cluster_fleet, sentinel_fleet, until
from twolane.process.flags import free_port

pytestmark = pytest.mark.anyio
TIMEOUT_S = 2.0  # of exchanges, some of which meet a server that hangs; those that fail are made again
PATIENT_S = 60.0  # of all else: a busy machine must not look like a server that hangs


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(redis_response_store, "PUT_S", PATIENT_S)
    for module in (decision_stream, redis_response_store, shared_budgets):
        monkeypatch.setattr(module, "TIMEOUT_S", PATIENT_S)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.made_in(tmp_path / "certificates")


@contextlib.asynccontextmanager
async def two_peers(url: str, ca_file: Path | None = None) -> AsyncIterator[tuple[Peer, Peer]]:
    clients = [RedisClient(read_address(url, ca_file), timeout_s=TIMEOUT_S) for _ in range(2)]
    one, other = (Peer(client) for client in clients)
    try:
        yield one, other
    finally:
        for client in clients:
            await client.aclose()


async def exchanges_until_up(peer: Peer) -> int:
    """How many exchanges it takes until one succeeds."""
    async with asyncio.timeout(120):
        for count in range(1, 1000):
            await peer.replica.exchange()
            if peer.replica.is_up:
                return count
    raise AssertionError


async def share(one: Peer, other: Peer) -> None:
    """What one knows reaches the other, at the first exchange of both that succeeds."""
    assert one.answered(200, 11) == [Reason.P95_BREACH]
    async with asyncio.timeout(120):
        while other.lane is LaneState.SERVING:
            await settle(one, other)
    assert other.lane is LaneState.EJECTED


async def test_a_user_with_few_rights_and_a_private_authority_are_enough(
    tmp_path: Path, certificates: Certificates
) -> None:
    """And without either, the replica is alone."""
    user = f"user gateway on >p%40ss ~{{tests}}:* {RIGHTS}".replace("%40", "@")
    with encrypted(tmp_path, certificates, "user default off", user) as (_, port):
        address = f"127.0.0.1:{port}"
        async with two_peers(f"rediss://gateway:p%40ss@{address}", certificates.ca_file) as (one, other):
            await share(one, other)
        refused = {
            f"rediss://gateway:p%40ss@{address}": None,  # signed by nobody that the system knows
            f"rediss://gateway:wrong@{address}": certificates.ca_file,
            f"rediss://{address}": certificates.ca_file,
            f"redis://gateway:p%40ss@{address}": None,
        }
        for url, ca_file in refused.items():
            async with two_peers(url, ca_file) as (one, _):
                await one.replica.exchange()
                assert not one.replica.is_up, url


async def test_a_new_authority_is_trusted_without_a_restart(tmp_path: Path, certificates: Certificates) -> None:
    with encrypted(tmp_path, certificates) as (server, port):
        async with two_peers(f"rediss://127.0.0.1:{port}", certificates.ca_file) as (one, other):
            await share(one, other)
            server.stop()
            Certificates.made_in(certificates.folder)
            server.start()
            for peer in (one, other):
                assert await exchanges_until_up(peer) <= 2  # the first notices that the connection is gone


@contextlib.contextmanager
def encrypted(folder: Path, certificates: Certificates, *lines: str) -> Iterator[tuple[RedisServer, int]]:
    """A server, which tests ask without TLS, and its port with TLS."""
    port = free_port()
    options = [line for line in certificates.options(port) if line != "port 0"]
    with redis_server(folder, *options, *lines) as server:
        yield server, port


async def test_a_connection_to_a_master_that_became_a_replica_is_given_up(tmp_path: Path) -> None:
    """A name (here a forwarder) leads to another server from now on, and the old connection still answers."""
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(redis_server(folder(tmp_path, name))) for name in ("old", "new"))
        async with forwarder(old) as (port, leads_to), two_peers(f"redis://127.0.0.1:{port}") as (one, other):
            await settle(one, other)
            leads_to(new)
            async with Redis.from_url(old.url) as commands:
                await commands.replicaof(*map(str, new.address))
            for peer in (one, other):
                await peer.replica.exchange()
                assert not peer.replica.is_up  # READONLY
                assert await exchanges_until_up(peer) == 1
            await share(one, other)


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


@contextlib.asynccontextmanager
async def forwarder(first: RedisServer) -> AsyncIterator[tuple[int, Callable[[RedisServer], None]]]:
    """A port whose new connections lead to a server, and a function that sets which."""
    leads_to, tasks = [first], set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(*leads_to[0].address)
        for each in (copy(reader, to_writer), copy(to_reader, writer)):
            tasks.add(asyncio.create_task(each))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], lambda other: leads_to.__setitem__(0, other)
    await asyncio.gather(*tasks)


@pytest.mark.slow
async def test_sentinels_lead_to_the_new_master(tmp_path: Path, certificates: Certificates) -> None:
    """With TLS and passwords, also after a planned failover and beside a sentinel that hangs."""
    with sentinel_fleet(folder(tmp_path, "fleet"), certificates) as fleet:
        async with two_peers(fleet.url, certificates.ca_file) as (one, other):
            await heal(one, other)
            old, new = fleet.servers
            until(lambda: fleet.sentinels[0].run("SENTINEL", "FAILOVER", SERVICE))
            until(lambda: new.is_master and old.run("ROLE") and not old.is_master)
            await heal(one, other)
            fleet.sentinels[0].signal(signal.SIGSTOP)
            new.stop()
            until(lambda: old.is_master)
            await heal(one, other)
            await share(one, other)


async def heal(*several: Peer) -> None:
    """A few exchanges are enough once there is a new master that all servers and sentinels agree on."""
    for peer in several:
        await exchanges_until_up(peer)


@pytest.mark.slow
async def test_sentinels_that_hang_are_passed_over(tmp_path: Path) -> None:
    with sentinel_fleet(folder(tmp_path, "fleet")) as fleet:
        for sentinel in fleet.sentinels[:2]:
            sentinel.signal(signal.SIGSTOP)
        async with two_peers(fleet.url) as (one, other):
            counts = await asyncio.gather(exchanges_until_up(one), exchanges_until_up(other))
            assert max(counts) <= len(fleet.sentinels)
            await share(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "is_secured"),
    [(signal.SIGKILL, True), (signal.SIGSTOP, False)],
    ids=["killed, with TLS and passwords", "hangs"],
)
async def test_a_cluster_goes_on_at_the_replica_also_if_the_address_names_the_node_that_is_gone(
    tmp_path: Path, certificates: Certificates, fault: signal.Signals, is_secured: bool
) -> None:
    ca_file = certificates.ca_file if is_secured else None
    with cluster_fleet(folder(tmp_path, "fleet"), certificates if is_secured else None) as fleet:
        async with two_peers(fleet.url, ca_file) as (one, other):
            await heal(one, other)
            await check_all_users(fleet.url, ca_file)
            first, replica = fleet.servers
            first.signal(fault)
            until(lambda: replica.is_master)
            await heal(one, other)
            await share(one, other)
            if fault is signal.SIGSTOP:
                first.signal(signal.SIGCONT)
                until(lambda: first.run("ROLE") and not first.is_master)
                await heal(one, other)


async def check_all_users(url: str, ca_file: Path | None) -> None:
    """Budgets, stored responses and decisions: all of their keys are in one slot."""
    address = read_address(url, ca_file)
    client = RedisClient(address, timeout_s=PATIENT_S)
    try:
        budgets = SharedBudgets(DailyBudgets(), RealClock(), client, namespace="tests")
        async with asyncio.timeout(120):
            while not await budgets.exchange():  # noqa: ASYNC110 - state of other processes
                await asyncio.sleep(0.02)
        stream = DecisionStream(client, namespace="tests", capacity=9)
        await stream.append([b"1", b"2"])
        assert [entry for _, entry in await stream.after("", 9)] == [b"1", b"2"]
    finally:
        await client.aclose()
    limits: Any = {"max_bytes": 99, "max_read_bytes": 99, "lifetime_s": 60.0}
    async with open_response_store(address=address, namespace="tests", **limits) as store:
        assert await store.put("r", StoredResponse(owner="a", response=b"x", items=b"y", item_ids=("i", "j")))
        assert await store.responses_of(["i", "j"], "a") == {"i": "r", "j": "r"}
        assert (await store.outputs(["r", "s"], "a")).keys() == {"r"}
        assert await store.get("r", "a") is not None
        assert await store.delete("r", "a")

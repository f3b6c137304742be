"""A client of Redis that forgets what it knew of the servers after every fault.

A failover can leave a client with connections to a master that has become a replica, to a node that hangs or to an
address that a name no longer has, or with an old map of a cluster. They are not told apart: after any fault, the next
call connects anew, to what names, sentinels and nodes of the cluster say by then.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from gateway.state.redis_address import RedisAddress, Topology


class RedisFaultError(Exception):
    """Redis does not answer as it should. The message is the kind of the fault: its text may contain an address."""


class Script:
    """A Lua script that servers know by its hash. Its keys are in one slot of a cluster."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._hash = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Any, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run it. A server that does not know it yet, such as a new master, gets it with the call: to load it on all
        nodes would fail with any of them."""
        from redis.exceptions import NoScriptError

        try:
            return await client.evalsha(self._hash, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.eval(self._text, len(keys), *keys, *arguments)


class RedisClient:
    """Connects on first use. `timeout_s` bounds each step of a connection and each answer."""

    def __init__(self, address: RedisAddress, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._hosts = address.hosts  # in the order in which they are asked
        self._client = self._open()
        self._retired: Any = None  # the client before it, whose last calls may be in progress

    @contextlib.asynccontextmanager
    async def calling(self, timeout_s: float) -> AsyncIterator[Any]:
        """redis-py's client for one or several calls, all within this time. Raises RedisFaultError."""
        from redis.exceptions import RedisClusterException, RedisError

        client, cancellations = self._client, _cancellations()
        try:
            async with asyncio.timeout(timeout_s):
                if self._address.topology is Topology.CLUSTER:
                    await client.initialize()  # without it, the first command goes to any node
                yield client
        except (RedisError, RedisClusterException, OSError, TimeoutError) as fault:
            await self._forget(client)
            if _cancellations() == cancellations:
                raise RedisFaultError(type(fault).__name__) from fault
        if _cancellations() > cancellations:  # redis-py has swallowed one: who waits for the task would wait for ever
            raise asyncio.CancelledError

    async def aclose(self) -> None:
        """Close all connections."""
        await _close(self._retired)
        await _close(self._client)

    async def _forget(self, client: Any) -> None:
        """Replace the client, which no retry of redis-py's own does after every kind of fault."""
        if client is not self._client:  # another call has done so
            return
        if self._address.topology is Topology.SENTINEL:
            self._hosts = (*self._hosts[1:], self._hosts[0])  # the first may hang, and would be asked first again
        if self._address.topology is Topology.CLUSTER:
            # Names may have other addresses by now, and nodes of the address may be gone: ask both.
            known = ((node.host, int(node.port)) for node in client.get_nodes())
            self._hosts = tuple(dict.fromkeys((*self._address.hosts, *known))) if client.get_nodes() else self._hosts
        retired, self._retired, self._client = self._retired, client, self._open()
        await _close(retired)

    def _open(self) -> Any:
        from redis.asyncio import Redis
        from redis.asyncio.connection import ConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        address = self._address
        limits: dict[str, Any] = {
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "retry": Retry(NoBackoff(), 0),  # the next exchange is the retry
        }
        if address.topology is Topology.SERVER:
            return Redis.from_pool(ConnectionPool(**_connections(address), **address.options, **limits))
        if address.topology is Topology.CLUSTER:
            return self._open_cluster()
        from redis.asyncio.sentinel import Sentinel

        sentinel_options = {**address.sentinel_options, **limits, "ssl": address.is_tls}
        make: Any = Sentinel  # is not typed
        sentinels = make(self._hosts, sentinel_kwargs=sentinel_options)
        return sentinels.master_for(address.service, ssl=address.is_tls, **address.options, **limits)

    def _open_cluster(self) -> Any:
        from redis.asyncio import RedisCluster
        from redis.asyncio.cluster import ClusterNode
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        address = self._address
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in self._hosts],
            dynamic_startup_nodes=False,  # keep the names, whose addresses may change
            require_full_coverage=False,  # all keys are in one slot
            ssl=address.is_tls,
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            retry=Retry(NoBackoff(), 1),
            **address.options,
        )


def _cancellations() -> int:
    """Requests to cancel the current task that are not withdrawn, as those of a time limit are."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _connections(address: RedisAddress) -> dict[str, Any]:
    from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

    if not address.hosts:
        return {"connection_class": UnixDomainSocketConnection}
    return {"connection_class": SSLConnection} if address.is_tls else {}


async def _close(client: Any) -> None:
    """Close what is open, also of a cluster that redis-py holds for closed because it is about to ask its nodes again.
    Connections to servers that hang are dropped."""
    sentinels = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    nodes = getattr(client, "nodes_manager", None)
    closing = [client.aclose()] if client is not None else []
    closing += [sentinels.aclose()] if sentinels is not None else []
    closing += [nodes.aclose(), nodes.aclose("startup_nodes")] if nodes is not None else []
    await asyncio.gather(*closing, return_exceptions=True)

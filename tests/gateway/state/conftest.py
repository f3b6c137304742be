"""A real Redis server for tests of shared state."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.state import memory
from gateway.state import redis as product
from tests.gateway.redis_server import RedisServer, redis_server


@pytest.fixture(name="redis")
def running_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """Longer timeouts, so that a busy machine does not look like a stopped Redis."""
    monkeypatch.setattr(product, "TIMEOUT_S", 60)
    monkeypatch.setattr(memory, "PEER_TTL_S", 3600)
    with redis_server(tmp_path) as server:
        yield server

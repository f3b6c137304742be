"""A real Redis for what is shared."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.redis_server import RedisServer, redis_server


@pytest.fixture(name="redis")
def running_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server

"""The clients of the running policy's targets."""

from typing import Any

import pytest

from gateway.enums import Residency
from gateway.upstreams.http_client.aiohttp_client import open_session
from gateway.upstreams.registry import UpstreamRegistry

pytestmark = pytest.mark.anyio


async def test_an_endpoint_that_has_left_is_unreachable_for_requests_that_began_before(target: Any) -> None:
    """It is neither asked how it is nor called: its address may belong to another party."""
    first, second = (target(f"fast/{url}", url=f"http://{url}:1", pool="fast") for url in ("127.0.0.2", "127.0.0.3"))
    registry = UpstreamRegistry(lambda: open_session(connect_s=60), lambda _: None)
    try:
        registry.set_targets([first, second])
        assert registry.status_of(first).residency is Residency.UNKNOWN
        registry.set_targets([second])
        assert registry.status_of(first).residency is Residency.UNREACHABLE
        assert registry._pollers.keys() == {second.url}
        registry.set_targets([first, second])
        assert registry.status_of(first).residency is Residency.UNKNOWN
    finally:
        await registry.aclose()

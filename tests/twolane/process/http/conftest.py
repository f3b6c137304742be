"""Connections are tested on both event loops."""

import pytest


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops: they differ in the order of reads, timers and closes."""
    return "asyncio", {"use_uvloop": request.param}

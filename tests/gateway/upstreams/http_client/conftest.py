"""Tests of the client run on both event loops."""

from typing import Any

import pytest


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The program runs on uvloop, most tests on asyncio."""
    return "asyncio", {"use_uvloop": request.param}

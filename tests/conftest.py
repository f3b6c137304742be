"""Fixtures that every test may use."""

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not decide whether a property holds.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the products do."""
    return "asyncio"

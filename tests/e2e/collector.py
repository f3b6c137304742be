"""A real OpenTelemetry collector (Rotel) between our programs and the test's receiver."""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from twolane.process.children import Child, Command
from twolane.process.flags import free_port

USER_AGENT = "rotel"  # how it introduces itself


def program() -> Path:
    """The collector of the package; skips where it is not installed (`make setup` installs it)."""
    found = find_spec("rotel")
    if found is None and not os.environ.get("CI"):
        pytest.skip("no collector; `make setup` installs it")
    assert found is not None
    assert found.origin is not None
    file = Path(found.origin).with_name("rotel-agent")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


@contextlib.asynccontextmanager
async def collecting(folder: Path, receiver_port: int) -> AsyncIterator[str]:
    """The collector's URL for OTLP over HTTP. It decodes, batches and encodes what it is sent, for the receiver."""
    file, port = program(), free_port()
    line = (
        *(str(file), "start", "--pid-file", str(folder / "collector.pid")),
        *("--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"),
        *("--exporter", "otlp", "--otlp-exporter-protocol", "http"),
        *("--otlp-exporter-endpoint", f"http://127.0.0.1:{receiver_port}", "--batch-timeout", "50ms"),
    )
    command = Command(name="collector", line=line, environment=dict(os.environ), log=folder / "collector.log")
    async with Child(command) as collector:
        async with asyncio.timeout(120):
            while not await _listens(port):
                assert collector.is_running, collector.last_words()
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True

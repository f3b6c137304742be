"""The HTTP server of one port of either program: uvicorn's, with the project's own connections."""

import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from twolane.process.http.connection import Listener


class Server(uvicorn.Server):
    """Uvicorn without signal handlers: two servers share one event loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers."""
        yield


def build_server(app: ASGIApp, *, drain_s: float, listener: Listener | None = None) -> Server:
    """The server of one port. `drain_s`: time for requests to finish during shutdown."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=listener or Listener(),  # type: ignore[arg-type]  # any callable that makes a protocol
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    return Server(config)

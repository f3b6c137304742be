"""Dispatches exact paths to their ASGI application, and everything else to one that is made when it is first needed.

Importing a web framework takes longer than all the rest of a start, and most requests never need it.
"""

import asyncio
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Dispatch:
    """`make` is called once, in a thread, so that it holds up no request to one of the paths; see `exact`."""

    def __init__(self, exact: Mapping[str, ASGIApp], make: Callable[[], ASGIApp]) -> None:
        self._exact = dict(exact)
        self._make = make
        self._making: asyncio.Future[ASGIApp] | None = None
        self._made: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One dictionary lookup for an exact path, no middleware."""
        app = self._exact.get(scope["path"]) if scope["type"] == "http" else None
        if app is None:
            if scope.get("method") == "HEAD":
                scope = {**scope, "method": "GET"}  # the connection omits the body
            app = self._made or await self._other()
        await app(scope, receive, send)

    async def _other(self) -> ASGIApp:
        """A client that leaves does not stop the others from waiting for it."""
        if self._making is None:
            self._making = asyncio.ensure_future(asyncio.to_thread(self._make))
        try:
            self._made = await asyncio.shield(self._making)
        except Exception:
            self._making = None  # the next request tries again
            raise
        return self._made

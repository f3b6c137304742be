"""ASGI middleware: limits the size of a request's body, and the bytes that all requests hold in memory together.

A body whose announced length does not fit is refused before it is read. Whatever the application does, the bytes are
released when it returns. The connection has counted what it has received already (`RequestCycle`).
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twolane.process.http.byte_budget import HOLDING, IN_SCOPE, BudgetExceededError, ByteBudget, Holding
from twolane.process.http.request_cycle import BODY
from twolane.process.http_body import BodyTooLargeError

_GONE: Final[Message] = {"type": "http.disconnect"}

Refuse = Callable[[Scope, Send, BodyTooLargeError | BudgetExceededError], Awaitable[None]]

_RefuseThis = Callable[[Send, BodyTooLargeError | BudgetExceededError], Awaitable[None]]


class BoundedBodies:
    """`refuse` sends the error response of the program."""

    def __init__(self, app: ASGIApp, budget: ByteBudget, *, max_body_bytes: int, refuse: Refuse) -> None:
        self._app, self._budget, self._max_body_bytes, self._refuse = app, budget, max_body_bytes, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        owner: str | None = getattr((scope.get("state") or {}).get("key"), "name", None)
        holding: Holding = scope.get(IN_SCOPE) or self._budget.hold()
        if owner is not None:
            holding.assign(owner)
        HOLDING.set(holding)
        try:
            if BODY in scope and holding.size <= self._max_body_bytes:  # it has arrived, and is counted
                await self._app(scope, receive, send)
                return
            body = _BoundedBody(receive, send, holding, self._max_body_bytes, partial(self._refuse, scope))
            if await body.admit(_announced(scope)):
                await self._app(scope, body.receive, body.send)
        finally:
            holding.release()


class _BoundedBody:
    """The channels of one request. An overrun is answered here; the application then sees a disconnect."""

    __slots__ = (
        "_has_started",
        "_holding",
        "_is_refused",
        "_max_body_bytes",
        "_receive",
        "_received",
        "_refuse",
        "_send",
    )

    def __init__(
        self, receive: Receive, send: Send, holding: Holding, max_body_bytes: int, refuse: _RefuseThis
    ) -> None:
        self._receive, self._send, self._holding = receive, send, holding
        self._max_body_bytes, self._refuse = max_body_bytes, refuse
        self._received = 0
        self._has_started = self._is_refused = False

    async def admit(self, announced: int) -> bool:
        """Reserve the announced length; False: the request was refused."""
        return not await self._overruns(announced)

    async def receive(self) -> Message:
        """The next message, or a disconnect if the body does not fit."""
        if self._is_refused:
            return _GONE
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if await self._overruns(self._received):
                return _GONE
        return message

    async def send(self, message: Message) -> None:
        """Passed on, except after a refusal."""
        self._has_started = True
        if not self._is_refused:
            await self._send(message)

    async def _overruns(self, size: int) -> bool:
        try:
            if size > self._max_body_bytes:
                raise BodyTooLargeError(self._max_body_bytes)
            self._holding.reserve(size)
        except (BodyTooLargeError, BudgetExceededError) as error:
            self._is_refused = True
            if not self._has_started:
                await self._refuse(self._send, error)
            return True
        return False


def _announced(scope: Scope) -> int:
    """The content length; 0 if the head has none."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0

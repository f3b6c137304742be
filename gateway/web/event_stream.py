"""One response as server-sent events: sends a comment whenever nothing was sent for a while.

Clients and proxies close connections that are silent for long, also while a target thinks or an answer is buffered. A
heartbeat sends the head of the response, not the answer: the status is then 200, but the target may still change, and
an error follows as an event.
"""

import asyncio
from collections.abc import Callable

from starlette.types import Send

from gateway.errors import GatewayError
from gateway.ports import Relay
from gateway.web import sse
from gateway.web.asgi_responses import send_bytes, send_error, start_stream
from gateway.web.error_body import headers_of
from gateway.web.headers import KNOWN_EARLY, ResponseHeaders


class EventStream:
    """`start` it before waiting for the answer; then `write` and `end`, and `aclose` in any case.

    `headers` returns the headers of the response as far as they are known. `heartbeat_s` 0 sends no heartbeats. `path`
    is that of the API whose form the stream has.
    """

    def __init__(
        self, send: Send, headers: Callable[[], ResponseHeaders], *, heartbeat_s: float, path: str = ""
    ) -> None:
        self._send = send
        self._push: Callable[[bytes], bool] | None = getattr(send, "push", None)  # see `error_boundary`
        self._headers = headers
        self._heartbeat_s = heartbeat_s
        self._path = path
        self._form = sse.form_of(path)
        self._loop = asyncio.get_running_loop()
        self._sent_s = self._loop.time()
        self._is_writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None
        self._early: ResponseHeaders = []  # headers that a heartbeat sent
        self._has_begun = False  # the head was sent, or is being sent
        self._has_events = False

    def start(self) -> None:
        """Begin to send heartbeats."""
        if self._heartbeat_s:
            self._timer = self._loop.call_later(self._heartbeat_s, self._check)

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send events, after the head."""
        self._is_writing = True
        try:
            if self._ping is not None:
                await self._finish_ping()
            if not self._has_begun:
                self._has_begun = True
                await start_stream(self._send, self._headers())
            self._has_events = True
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
        finally:
            self._sent_s = self._loop.time()
            self._is_writing = False

    @property
    def takes_pushes(self) -> bool:
        """Whether `push` may be called: the head was sent, over a connection that takes bytes without waiting."""
        return self._has_events and self._push is not None

    def push(self, data: bytes) -> bool:
        """Send events at once. Returns whether there is room for more: otherwise `write` waits for it."""
        assert self._push is not None
        self._sent_s = self._loop.time()
        return self._push(data) if data else True

    def relay(self) -> Relay | None:
        """Sends whole chunks of HTTP, each of them an event, as they are; otherwise like `push`. None: the response has
        no chunks. Ask only if it `takes_pushes`."""
        send: Callable[[bytes], bool] | None = getattr(self._send, "relay", None)
        if send is None:
            return None

        def relay(chunks: bytes, now_s: float) -> bool:
            self._sent_s = now_s
            return send(chunks)

        return relay

    async def end(self, last: bytes, error: GatewayError | None = None) -> None:
        """Send the `last` events, or an error as a response of its own if no head was sent.

        Headers that the head of a heartbeat could not contain precede the last events as one comment.
        """
        self._stop_timer()
        await self._finish_ping()
        if error is not None and not self._has_begun:
            await send_error(self._send, error, self._headers(), path=self._path)
            return
        comment = b""
        if self._early:
            known, sent = [*(headers_of(error) if error else ()), *self._headers()], {name for name, _ in self._early}
            comment = sse.header_comment(each for each in known if each[0] not in sent)
        await self.write(comment + last, more=False)

    async def aclose(self) -> None:
        """Send no more heartbeats."""
        self._stop_timer()
        if self._ping is not None:
            self._ping.cancel()
            await asyncio.gather(self._ping, return_exceptions=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _finish_ping(self) -> None:
        """Messages are sent one after the other, also to a client that reads slowly."""
        if self._ping is not None:
            await self._ping
            self._ping = None

    def _check(self) -> None:
        """The timer fired. It is not set again for every write, but looks how long ago the last one was."""
        due_s = self._sent_s + self._heartbeat_s - self._loop.time()
        if self._is_writing or (self._ping is not None and not self._ping.done()):
            due_s = self._heartbeat_s  # the client reads slowly
        elif due_s <= 0:
            self._ping = asyncio.create_task(self._send_ping(), name="heartbeat")
            due_s = self._heartbeat_s
        self._timer = self._loop.call_later(due_s, self._check)

    async def _send_ping(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._early = [(name, value) for name, value in self._headers() if name in KNOWN_EARLY]
            await start_stream(self._send, self._early)
        await send_bytes(self._send, self._form.ping if self._has_events else sse.PING)
        self._sent_s = self._loop.time()

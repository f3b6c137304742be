"""Where requests wait for the gateway's own event loop, and are refused if it is overloaded.

A loop that starts every request at once turns ever more slowly: under overload, all requests are late. So each turn of
the loop starts only a few; the others wait in a queue that is fair between API keys. A request is refused by its head:
nothing is parsed, no task is started, and the connection stays open.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.errors import GatewayOverloaded
from gateway.reliability.fair_queue import FairQueue
from gateway.reliability.load_shedding import LoadShedder
from gateway.telemetry.loop_lag import LoopWatch
from gateway.web.connection import ClientConnection
from gateway.web.error_body import JSON, body_of, headers_of
from gateway.web.headers import REQUEST_ID

STARTS_PER_TURN: Final = 4
MAX_WAITING: Final = 4096
MAX_DISCARDED_BYTES: Final = 65_536  # of a refused request's body; a connection that sends more is closed
RETRY_AFTER_S: Final = 1.0
_ERROR: Final = GatewayOverloaded("The gateway is overloaded; try again later.", retry_after_s=RETRY_AFTER_S)


@dataclass(frozen=True, slots=True, eq=False)
class _Arrival:
    connection: "IngressConnection"
    cycle: RequestResponseCycle
    app: ASGI3Application
    at_s: float


class Ingress:
    """The queue of one server. `key_of` finds whose share a request uses, by its ASGI scope; requests for one of the
    `paths` may have to wait."""

    def __init__(
        self,
        *,
        paths: frozenset[str],
        watch: LoopWatch,
        on_shed: Callable[[], None],
        key_of: Callable[[Any], str],
        shedder: LoadShedder | None = None,
    ) -> None:
        self.paths = paths
        self._watch = watch
        self._on_shed = on_shed
        self._key_of = key_of
        self._shedder = shedder or LoadShedder()
        self._clock = watch.clock
        self._queue: FairQueue[_Arrival] = FairQueue()
        self._started = 0  # in this turn of the loop
        self._is_scheduled = False
        self._running: Collection[object] = ()  # requests of the server

    @property
    def is_busy(self) -> bool:
        """Whether any request waits or is in progress."""
        return bool(self._queue or self._running)

    def arrive(self, connection: "IngressConnection", cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request now, or when its turn comes."""
        self._running = connection.tasks
        arrival = _Arrival(connection, cycle, app, self._clock())
        if not self._queue and self._started < STARTS_PER_TURN:
            self._decide(arrival)
        else:
            evicted = self._queue.offer(self._key_of(cycle.scope), arrival, limit=MAX_WAITING)
            if evicted is not None:
                self._refuse(evicted)
        self._watch.wake()
        self._schedule()

    def _turn(self) -> None:
        """A new turn of the loop: start the next requests."""
        self._is_scheduled = False
        self._started = 0
        while self._queue and self._started < STARTS_PER_TURN:
            arrival = self._queue.pop()
            if not arrival.connection.transport.is_closing():
                arrival.cycle.scope["state"]["received_s"] = arrival.at_s
                self._decide(arrival)
        if self._queue or self._started:
            self._schedule()

    def _decide(self, arrival: _Arrival) -> None:
        now_s = self._clock()
        if self._shedder.admits(now_s - arrival.at_s + self._watch.lag.sustained_s, now_s):
            self._started += 1
            arrival.connection.start(arrival.cycle, arrival.app)
        else:
            self._refuse(arrival)

    def _refuse(self, arrival: _Arrival) -> None:
        self._on_shed()
        arrival.connection.refuse(arrival.cycle)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)


class IngressConnection(ClientConnection):
    """A client connection whose requests wait for their turn."""

    def __init__(self, *args: Any, ingress: Ingress, **kwargs: Any) -> None:
        """Takes the arguments of uvicorn's protocols."""
        super().__init__(*args, **kwargs)
        self._ingress = ingress

    def start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request."""
        super()._start_asgi_task(cycle, app)

    def refuse(self, cycle: RequestResponseCycle) -> None:
        """Respond with 503. The rest of the body is discarded; if it is large, the connection is closed."""
        if self.transport.is_closing():
            return
        closes = not cycle.keep_alive or _is_large(cycle)
        cycle.response_started = cycle.response_complete = True
        cycle.keep_alive = not closes
        self.transport.write(_refusal(self.server_state.default_headers, closes=closes))
        if closes:
            cycle.transport.close()
        if self.pipeline:  # not from here: a client may have sent thousands of requests at once
            self.loop.call_soon(cycle.on_response)
        else:
            cycle.on_response()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        scope = cycle.scope
        if scope["method"] == "POST" and scope["path"] in self._ingress.paths:
            self._ingress.arrive(self, cycle, app)
        else:
            self.start(cycle, app)


def _is_large(cycle: RequestResponseCycle) -> bool:
    """Whether the body is too large to discard, or of unknown length; a client that waits for 100 sends none."""
    if cycle.waiting_for_100_continue:
        return True
    if not cycle.more_body:
        return False
    length = next((value for name, value in cycle.scope["headers"] if name == b"content-length"), b"")
    return not length.isdigit() or int(length) > MAX_DISCARDED_BYTES


def _head(*, closes: bool) -> bytes:
    body = body_of(_ERROR)
    headers = [(b"content-type", JSON), *headers_of(_ERROR), (b"content-length", b"%d" % len(body))]
    if closes:
        headers.append((b"connection", b"close"))
    return b"".join(b"%s: %s\r\n" % header for header in headers)


_HEADS: Final = {closes: _head(closes=closes) for closes in (False, True)}
_BODY: Final = b"\r\n" + body_of(_ERROR)


def _refusal(default_headers: list[tuple[bytes, bytes]], *, closes: bool) -> bytes:
    """The whole response."""
    first = b"".join(b"%s: %s\r\n" % header for header in default_headers)
    request_id = b"%s: req_%s\r\n" % (REQUEST_ID, secrets.token_hex(12).encode())
    return b"HTTP/1.1 503 Service Unavailable\r\n" + first + request_id + _HEADS[closes] + _BODY

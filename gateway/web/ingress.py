"""Where requests wait for the gateway's own event loop, and are refused if it is overloaded.

A loop that starts every request at once turns ever more slowly: under overload, all requests are late. So each turn of
the loop starts only a few, or some more while turns are short; the others wait in a queue that is fair between API
keys. A request is refused by its head: nothing is parsed, no task is started, and the connection stays open.
"""

import asyncio
from collections.abc import Callable, Collection
from contextvars import Context
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from gateway.errors import GatewayOverloaded
from gateway.reliability.fair_queue import FairQueue
from gateway.reliability.load_shedding import LoadShedder
from gateway.telemetry.loop_lag import LoopWatch
from gateway.web.error_body import JSON, body_of, headers_of, is_of_messages
from gateway.web.headers import REQUEST_ID, new_request_id, request_id_headers
from twolane.process.http.connection import ClientConnection
from twolane.process.http.request_cycle import RequestCycle

STARTS_PER_TURN: Final = 4
SHORT_TURN_S: Final = 0.004
STARTS_PER_SHORT_TURN: Final = 16  # requests that start in a row share the processor's caches
MAX_WAITING: Final = 4096
MAX_DISCARDED_BYTES: Final = 65_536  # of a refused request's body; a connection that sends more is closed
RETRY_AFTER_S: Final = 1.0
_ERROR: Final = GatewayOverloaded("The gateway is overloaded; try again later.", retry_after_s=RETRY_AFTER_S)
_HEADERS: Final = ((b"content-type", JSON), *headers_of(_ERROR))
_BODY: Final = body_of(_ERROR)
_NOBODY: Final = ()


@dataclass(slots=True, eq=False)
class _Arrival:
    connection: ClientConnection
    cycle: RequestCycle
    at_s: float


class Ingress:
    """The queue of one server. `key_of` finds whose share a request uses, by its ASGI scope; requests for one of the
    `paths` may have to wait. `streams`: how many requests in progress are streams that have begun; those of the
    console, which are not in this queue, may be counted as well."""

    def __init__(
        self,
        *,
        paths: frozenset[str],
        watch: LoopWatch,
        on_shed: Callable[[], None],
        key_of: Callable[[Any], str],
        shedder: LoadShedder | None = None,
        streams: Callable[[], int] = lambda: 0,
    ) -> None:
        self.paths = paths
        self._streams = streams
        self._watch = watch
        self._on_shed = on_shed
        self._key_of = key_of
        self._shedder = shedder or LoadShedder()
        self._clock = watch.clock
        self._queue: FairQueue[_Arrival] = FairQueue()
        self._started = 0  # in this turn of the loop
        self._most = STARTS_PER_TURN  # that start in this turn
        self._turned_s = -inf  # when it began
        self._is_scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None  # finding it takes a system call
        self._context = Context()  # empty: the current one may be of a request, whose variables would live on in turns
        self._running: Collection[object] = _NOBODY  # requests of the server, known with the first connection

    @property
    def is_busy(self) -> bool:
        """Whether any request waits, or is in progress and has not begun to stream."""
        return self._queue.size > 0 or len(self._running) > self._streams()

    @property
    def has_requests(self) -> bool:
        """Whether any request is in progress."""
        return bool(self._running)

    def arrive(self, connection: ClientConnection, cycle: RequestCycle) -> None:
        """Start a request now, or when its turn comes; refuse it if the loop is overloaded."""
        if self._running is _NOBODY:
            self._running = connection.tasks
        if cycle.scope["method"] != "POST" or cycle.scope["path"] not in self.paths:
            connection.start(cycle)
            return
        at_s = self._clock()
        if not self._queue.size and self._started < self._most:
            self._decide(connection, cycle, at_s, at_s)
        else:
            arrival = _Arrival(connection, cycle, at_s)
            key = self._key_of(cycle.scope)
            # Several keys share the whole queue: the first few of them would take all of a short one.
            room = self._shedder.room(arrival.at_s) if self._queue.has_only(key) else None
            evicted = self._queue.offer(key, arrival, limit=MAX_WAITING if room is None else room)
            if evicted is not None:
                if room is not None:
                    self._shedder.refuse(arrival.at_s)
                self._refuse(evicted.connection, evicted.cycle)
        if not self._is_scheduled:
            self._schedule()

    def _turn(self) -> None:
        """A new turn of the loop: start the next requests."""
        now_s = self._clock()
        self._most = STARTS_PER_SHORT_TURN if now_s - self._turned_s < SHORT_TURN_S else STARTS_PER_TURN
        self._turned_s = now_s
        self._is_scheduled = False
        self._started = 0
        if self._watch.is_idle:  # not before the first request has gone its way
            self._watch.wake()
        while self._queue.size and self._started < self._most:
            arrival = self._queue.pop()
            if arrival.connection.is_open and not arrival.cycle.is_disconnected:
                arrival.cycle.scope["state"]["received_s"] = arrival.at_s
                self._decide(arrival.connection, arrival.cycle, arrival.at_s, self._clock())
        if self._queue.size or self._started:
            self._schedule()

    def _decide(self, connection: ClientConnection, cycle: RequestCycle, at_s: float, now_s: float) -> None:
        if self._shedder.admits(now_s - at_s + self._watch.lag.sustained_s, now_s):
            self._started += 1
            connection.start(cycle)
        else:
            self._refuse(connection, cycle)

    def _refuse(self, connection: ClientConnection, cycle: RequestCycle) -> None:
        """The rest of a small body is discarded; behind a large one the connection is closed."""
        if cycle.is_disconnected or not connection.is_open:
            return
        self._on_shed()
        cycle.is_last = cycle.is_last or _is_large(cycle)
        request_id, path = new_request_id(), cycle.scope["path"]
        if is_of_messages(path):
            headers = [*request_id_headers(request_id, path), *_HEADERS]
            cycle.respond(_ERROR.status, headers, body_of(_ERROR, path, request_id))
        else:
            cycle.respond(_ERROR.status, [(REQUEST_ID, request_id.encode()), *_HEADERS], _BODY)

    def _schedule(self) -> None:
        self._is_scheduled = True
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._turn, context=self._context)


def _is_large(cycle: RequestCycle) -> bool:
    """Whether the body is too large to discard, or of unknown length."""
    if cycle.body_is_complete:
        return False
    length = next((value for name, value in cycle.scope["headers"] if name == b"content-length"), b"")
    return not length.isdigit() or int(length) > MAX_DISCARDED_BYTES

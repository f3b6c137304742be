"""Reads a stream as it arrives, in what receives it. Nobody is woken for a chunk, nor between an answer and its end."""

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.ports import RelayText
from gateway.types import Delta
from gateway.upstreams.answers.reader import AnswerReader
from gateway.upstreams.http_client.client import RelayChunks


class PushedStream:
    """`feed` is called with what arrives of a stream whose answer is not complete. `end` is set when somebody must read
    on: at the end of the stream, after a `fault`, when `take` returned False, for what follows a complete answer, put
    into `found`, or at `trailer_until_s`."""

    __slots__ = (
        *("_found", "_is_single", "_loop", "_reader", "_take", "_timer", "_trailer_s", "end", "fault"),
        "trailer_until_s",
    )

    def __init__(
        self,
        reader: AnswerReader,
        found: deque[Delta],
        take: Callable[[list[Delta]], bool],
        *,
        is_single: bool,
        trailer_s: float,
    ) -> None:
        """`is_single`: no choice begins when another has ended. `trailer_s`: for the end of a complete answer."""
        self._reader, self._found, self._take = reader, found, take
        self._is_single, self._trailer_s = is_single, trailer_s
        self._loop = loop = asyncio.get_running_loop()
        self.end: asyncio.Future[None] = loop.create_future()
        self.fault: Exception | None = None
        self.trailer_until_s: float | None = None  # when the end of a complete answer is waited for no longer
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, part: bytes) -> bool:
        """A part of the body; nothing if the body must be read. Returns whether to go on."""
        try:
            if part and self._read(part):
                return True
        except Exception as fault:  # noqa: BLE001 - for whoever reads on
            self.fault = fault
        self._stop()
        return False

    def relaying(self, relay: RelayText) -> RelayChunks:
        """Relays text instead of reading it, if the reader needs to know nothing else of it."""
        reader = self._reader

        def take(chunks: bytes, index: int, characters: int) -> bool | None:
            if index not in reader.text_choices:
                return None
            reader.idle_size = 0
            try:
                if relay(chunks, characters):
                    return True
            except Exception as fault:  # noqa: BLE001 - for whoever reads on
                self.fault = fault
            self._stop()
            return False

        return take

    def close(self) -> None:
        """Nothing is fed any longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _read(self, part: bytes) -> bool:
        reader = self._reader
        found = reader.feed(part)
        if self._timer is not None and found:
            self._found.extend(found)
            return False
        if not self._take(found) or reader.is_done:
            return False
        if self._is_single and reader.is_finished and self._timer is None:
            self.trailer_until_s = self._loop.time() + self._trailer_s
            self._timer = self._loop.call_at(self.trailer_until_s, self._stop)
        return True

    def _stop(self) -> None:
        if not self.end.done():
            self.end.set_result(None)

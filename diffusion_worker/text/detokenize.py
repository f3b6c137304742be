"""Incremental detokenization: UTF-8 safe, and cut at the first stop string.

Only final text is returned: an incomplete character is held back until it is complete, and text that may be the start
of a stop string until it is known not to be one.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass

from diffusion_worker.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Final text, the number of input ids consumed, and whether a stop string was found."""

    text: str
    ids_read: int
    stopped: bool


class Detokenizer:
    """Detokenizer of one answer. Feed ids as they arrive, then flush once."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._scanner = StopScanner(stops)

    def feed(self, ids: Iterable[int]) -> Piece:
        """Consume ids; returns the text that is final after them. Ids after a stop string are ignored."""
        parts: list[str] = []
        read = 0
        for token in ids:
            if self._scanner.stopped:
                break
            read += 1
            parts.append(self._scanner.feed(self._decoder.decode(self._tokenizer.token_bytes(token))))
        return Piece(text="".join(parts), ids_read=read, stopped=self._scanner.stopped)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._scanner.stopped

    def add(self, text: str) -> str:
        """Insert text that was not decoded from ids; returns the text that is final after it."""
        return self._scanner.feed(text)

    def cut(self) -> str:
        """End the current segment: the bytes of an incomplete character become one U+FFFD."""
        return self._scanner.feed(self._decoder.decode(b"", final=True))

    def flush(self) -> Piece:
        """The text held back so far, at the end of the answer."""
        text = self.cut() + self._scanner.flush()
        return Piece(text=text, ids_read=0, stopped=self._scanner.stopped)


class StopScanner:
    """Finds the first stop string, also across pieces; the stop string itself is never returned."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Add text; returns the text that cannot be part of a stop string."""
        if self.stopped or not text:
            return ""
        held = self._held + text
        starts = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if starts:
            self.stopped, self._held = True, ""
            return held[: min(starts)]
        keep = max((overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """The text held back so far."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

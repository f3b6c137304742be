"""Ids to text while they arrive: UTF-8 safe, cut at the first stop string.

Text leaves only when it is final: an incomplete character waits for its bytes, and text that may be the beginning of a
stop string waits until it is none. Knows nothing of blocks, the wire, or why an answer ended.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass

from diffusion_worker.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Text that may leave, how many of the ids given were read for it, and whether a stop string ended the answer."""

    text: str
    ids_read: int
    stopped: bool


class Detokenizer:
    """The text of one answer. Feed ids as they come, then flush once."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._scanner = StopScanner(stops)

    def feed(self, ids: Iterable[int]) -> Piece:
        """The text that is final after these ids. After a stop no further id is read."""
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
        """Whether a stop string has been found."""
        return self._scanner.stopped

    def add(self, text: str) -> str:
        """Text that comes from elsewhere stands here in the answer; what is final after it."""
        return self._scanner.feed(text)

    def cut(self) -> str:
        """The next id belongs elsewhere: bytes of an unfinished character become one U+FFFD."""
        return self._scanner.feed(self._decoder.decode(b"", final=True))

    def flush(self) -> Piece:
        """What was held back, now that nothing follows."""
        text = self.cut() + self._scanner.flush()
        return Piece(text=text, ids_read=0, stopped=self._scanner.stopped)


class StopScanner:
    """Finds the earliest stop string across the borders of pieces; the stop string itself never leaves."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that cannot be part of a stop string any more."""
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
        """What was held back in vain."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

"""What a stream keeps in memory, to be sent or for its check: counted, and limited."""

from typing import Final

from gateway.attempts.attempt_end import too_large
from gateway.upstreams.answers.kept_bytes import keep_bytes

MAX_BUFFERED_BYTES: Final = 32 * 1024 * 1024
MAX_BUFFERED_DELTAS: Final = 1 << 18
_DELTA_BYTES: Final = 400  # that a delta takes in memory beside its data


class KeptDeltas:
    """Of one stream."""

    __slots__ = ("_bytes", "_chars", "_deltas")

    def __init__(self) -> None:
        self._bytes = self._deltas = 0
        self._chars = 0  # of the output that were counted

    def keep(self, size: int) -> None:
        """Count a delta. Raises UpstreamError if it is too much."""
        self._bytes += size
        self._deltas += 1
        keep_bytes(size + _DELTA_BYTES)
        if self._bytes > MAX_BUFFERED_BYTES or self._deltas > MAX_BUFFERED_DELTAS:
            raise too_large(MAX_BUFFERED_BYTES, MAX_BUFFERED_DELTAS)

    def keep_output(self, chars: int) -> None:
        """Count what has been added to the output, which has so many characters now. Raises UpstreamError."""
        self.keep(chars - self._chars)
        self._chars = chars

    def pass_over(self, chars: int) -> None:
        """The output up to here is counted already, with its deltas."""
        self._chars = chars

"""What has arrived of the response to an attempt: when, how much, what it has used, whether it has content."""

from gateway.attempts.answer_content import bytes_of_content
from gateway.attempts.read_limits import ReadLimits
from gateway.attempts.request_context import RequestContext
from gateway.decision import AttemptRecord
from gateway.ports import Relay, RelayText, World
from gateway.types import Candidate, Delta, Usage


class Progress:
    """Of one attempt, which sets the fields, and whose record it fills."""

    __slots__ = (
        *("_clock", "_context", "_has_answer", "_has_finish_reason", "_is_committed", "_limits"),
        *("_output_chars", "_started_s", "_usage", "candidate", "record"),
    )
    _context: RequestContext
    candidate: Candidate
    record: AttemptRecord
    _clock: World
    _limits: ReadLimits
    _started_s: float
    _usage: Usage | None
    _output_chars: int
    _has_answer: bool
    _has_finish_reason: bool
    _is_committed: bool  # past the point of no return

    def _observe(self, delta: Delta) -> None:
        """Record the times and the usage that a delta brings."""
        record = self.record
        if record.first_byte_ms is None:
            record.first_byte_ms = self._arrived_ms(self._clock.now_s())
            if record.stream:
                self._limits.limit_pauses(self.candidate.target.idle_s)
        if not record.stream:
            if delta.data:  # the whole, of which parts may have been observed
                self._output_chars = 0
        elif record.first_token_ms is None and bytes_of_content(delta):
            record.first_token_ms = self._arrived_ms(self._clock.now_s())
        for piece in delta.pieces:
            self._output_chars += len(piece.text)
            for call in piece.tool_calls:
                self._output_chars += len(call.arguments)
            if piece.is_answer:
                self._has_answer = True
            if piece.finish_reason is not None:
                self._has_finish_reason = True
        if delta.usage is not None:
            self._usage = delta.usage
            if self._is_committed:
                self._context.record_usage(delta.usage)

    def _relaying(self, relay: Relay) -> RelayText | None:
        """Records text that is relayed, not read. None: the next delta must be observed."""
        if self.record.first_token_ms is None or not self._has_answer:
            return None
        limits, time_s = self._limits, self._limits.time_s

        def take(chunks: bytes, characters: int) -> bool:
            limits.since_s = now_s = time_s()  # as `read_on`, without a call of its own
            self._output_chars += characters
            return relay(chunks, now_s)

        return take

    def _arrived_ms(self, now_s: float) -> float:
        """When what was read just now had arrived: lag of the gateway's own event loop is not the target's time."""
        return (now_s - self._clock.stalled_s(self._started_s, now_s) - self._context.query.received_s) * 1000

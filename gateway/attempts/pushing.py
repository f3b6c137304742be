"""Passes on a stream without waking the task of its request for every chunk, which costs more than the chunk itself."""

from collections.abc import Callable

from gateway.attempts.read_limits import ReadLimits
from gateway.errors import AttemptFailed
from gateway.ports import Deltas, RelayText
from gateway.types import Delta

Send = Callable[[list[Delta]], bool]  # sends deltas at once, and returns whether there is room for more


async def push_deltas(
    deltas: Deltas,
    limits: ReadLimits,
    observe: Callable[[Delta], None],
    send: Send,
    relay: RelayText | None = None,
    *,
    time_out: Callable[[], AttemptFailed],
) -> None:
    """Send deltas as they arrive, within the limits of one read each, until `send` returns False or something else is
    to be read. Returns at once for an iterator without `push`. Raises what `time_out` returns. `relay` may take text in
    place of both, as it came from the target."""
    push = getattr(deltas, "push", None)
    if push is None:
        return

    def take(found: list[Delta]) -> bool:
        limits.read_on()
        for delta in found:
            observe(delta)
        return send(found) if found else True  # nothing: a heartbeat

    try:
        with limits:
            await push(take, relay)
    except TimeoutError as fault:
        raise time_out() from fault

"""The body of an HTTP request, read from ASGI. `http.bounded_bodies` limits it."""

from starlette.types import Receive


class BodyTooLargeError(Exception):
    """The body is larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes.")
        self.limit = limit


class ClientDisconnected(Exception):  # noqa: N818 - says what happened
    """The client closed the connection, so no response can be sent."""


async def read_body(receive: Receive) -> bytes:
    """The whole body. Raises ClientDisconnected."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)

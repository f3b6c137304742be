"""The body of an HTTP request, read from ASGI up to a limit."""

from starlette.types import Receive


class BodyTooLargeError(Exception):
    """The body is larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes.")
        self.limit = limit


class ClientDisconnected(Exception):  # noqa: N818 - says what happened
    """The client closed the connection, so no response can be sent."""


async def read_body(receive: Receive, *, content_length: bytes, limit: int) -> bytes:
    """The whole body. Raises ClientDisconnected, and BodyTooLargeError, before reading anything if `content_length`
    (the header, empty if absent) exceeds the limit."""
    if content_length.isdigit() and int(content_length) > limit:
        raise BodyTooLargeError(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLargeError(limit)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)

"""Quick readers of common input in C (`_native.c`), where they were built. Each returns None for what it does not read;
the full reader (llhttp, the reader of answers) then accepts or refuses it. An installation without a C compiler has no
such module, and reads everything with the full readers.
"""

import select
from typing import TYPE_CHECKING, Final

from twolane.process.native import load_native

if TYPE_CHECKING:
    from twolane.process.http import _native
else:
    _native = load_native("twolane.process.http._native", VERSION=6)

IS_BUILT: Final = _native is not None


def _reads_nothing(*_: object) -> None:
    return None


def _polls(fileno: int) -> bool:
    asked = select.poll()
    asked.register(fileno, select.POLLIN)
    return bool(asked.poll(0))


# The JSON of one server-sent event, alone in these bytes, that adds text to one choice of a chat completion and nothing
# else, the index of the choice, and the text.
read_text_event = _native.read_text_event if IS_BUILT else _reads_nothing
# A whole HTTP/1.1 request that begins here, for one of these targets (by the line of the request), with at most so many
# bytes and headers in its head: target, headers with names in lower case, the same by name, body. Its lines end with
# CR LF and consist of visible ASCII and blanks, no header occurs twice, `content-length` is exactly that of the rest,
# and nothing changes the framing or the connection.
read_request = _native.read_request if IS_BUILT else _reads_nothing
# A response with status 200 of the same form, with at most so many bytes in its head and in its body: headers by name
# in lower case, what has arrived of the body (all of it, or whole chunks without extensions and trailers), and whether
# that is all.
read_response = _native.read_response if IS_BUILT else _reads_nothing
# The data of whole chunks of a body, likewise, and whether the body ends with them.
read_chunks = _native.read_chunks if IS_BUILT else _reads_nothing
# Of whole chunks of a body, each of them one such event, of the same choice, whose text may have escapes: the bytes of
# their data, the index of the choice, and the characters of the text. So they can be passed on as they are.
read_text_chunks = _native.read_text_chunks if IS_BUILT else _reads_nothing
# The lines of headers whose names are in lower case, without `content-length`, `connection` and `transfer-encoding`.
header_lines = _native.header_lines if IS_BUILT else _reads_nothing
# Whether a read of this socket would return at once, with bytes, the end or an error.
is_readable = _native.is_readable if IS_BUILT else _polls

"""Quick readers of common input in C (`_native.c`), where they were built. Each returns None for what it does not read;
the full reader (llhttp, `json_body.read_json`) then accepts or refuses it. An installation without a C compiler has no
such module, and reads everything with the full readers.
"""

from typing import TYPE_CHECKING, Final

from twolane.process.native import load_native

if TYPE_CHECKING:
    from twolane.process.http import _native
else:
    _native = load_native("twolane.process.http._native", VERSION=2)

IS_BUILT: Final = _native is not None
Spans = dict[str, tuple[int, int]]  # where the value of each member is
Head = tuple[bytes, list[tuple[bytes, bytes]], int]  # first line, headers with names in lower case, where the head ends


def _reads_nothing(*_: object) -> None:
    return None


# Where the members of a JSON object are, if it is one that `read_json` reads with this limit of values.
scan_object = _native.scan_object if IS_BUILT else _reads_nothing
# The head of an HTTP/1.1 message that begins here: lines that end with CR LF, of visible ASCII and blanks.
read_head = _native.read_head if IS_BUILT else _reads_nothing
# The data of whole chunks of a body from a place to the end of the bytes, without extensions and trailers; and whether
# the body ends with them.
read_chunks = _native.read_chunks if IS_BUILT else _reads_nothing
# The lines of headers whose names are in lower case, without `content-length`, `connection` and `transfer-encoding`.
header_lines = _native.header_lines if IS_BUILT else _reads_nothing

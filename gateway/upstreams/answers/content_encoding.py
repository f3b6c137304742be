"""Decodes compressed response bodies (RFC 9110, section 8.4). The gateway requests `identity`, but some servers and
proxies compress nevertheless, and OpenAI's clients accept gzip and deflate."""

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

MAX_PIECE_BYTES: Final = 1 << 14  # a small compressed input cannot fill the memory in one call
MAX_EMPTY_MEMBERS: Final = 1000  # of gzip: each costs as much as a full one and brings nothing
_SLICE_BYTES: Final = 4096  # of input: zlib copies what follows a member, once for each member
_MAX_CODINGS: Final = 2
_GZIP: Final = b"\x1f\x8b"
_DECODED: Final = frozenset({"gzip", "x-gzip", "deflate"})
# Registered codings that are not decoded. OpenAI's clients read a body of any other name, such as `utf-8`, as it is.
_NOT_DECODED: Final = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})


class UnsupportedEncoding(Exception):  # noqa: N818 - says what happened
    """The body has a content coding that cannot be decoded; the message names it."""


class CorruptBody(Exception):  # noqa: N818 - says what happened
    """The body does not have the announced content coding."""


class Decoder(Protocol):
    """Decodes one body incrementally."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces of at most MAX_PIECE_BYTES. The work for each piece is bounded, so some are
        empty: the caller can let others run in between. Raises CorruptBody."""
        ...


def decoder_for(header: str) -> Decoder | None:
    """The decoder for the value of a `content-encoding` header; None for an identity body, and for one whose coding
    nobody knows. Raises UnsupportedEncoding."""
    given = [part.strip().lower() for part in header.split(",")]
    names = [name for name in given if name in _DECODED or name in _NOT_DECODED]
    if not names:
        return None
    if len(names) > _MAX_CODINGS:
        raise UnsupportedEncoding(f"{len(names)} content codings")
    return _Chain([_Inflater(name) for name in reversed(names)])


class _Chain:
    """Several content codings, applied one after the other."""

    def __init__(self, decoders: "list[_Inflater]") -> None:
        self._decoders = decoders

    def decode(self, data: bytes) -> Iterator[bytes]:
        """See `Decoder`."""
        pieces: Iterator[bytes] = iter((data,))
        for decoder in self._decoders:
            pieces = decoder.decode_all(pieces)
        return pieces


class _Inflater:
    """gzip with any number of members, padded with zeros or not, or deflate with or without the zlib header."""

    def __init__(self, name: str) -> None:
        if name not in _DECODED:
            raise UnsupportedEncoding(name[:40])
        self._is_gzip = name != "deflate"
        self._inflate: zlib._Decompress | None = None  # of the current member; None between two members
        self._start = b""  # of the next member, while it is too short to be recognised
        self._members = 0
        self._empty = 0  # members without content
        self._has_content = False  # of the current member
        self._is_over = False  # whatever follows is no part of the body

    def decode_all(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Decode all pieces of the input, in order."""
        for piece in pieces:
            if not piece:
                yield piece
            for at in range(0, len(piece), _SLICE_BYTES):
                yield from self._decode(piece[at : at + _SLICE_BYTES])

    def _decode(self, data: bytes) -> Iterator[bytes]:
        is_full = False  # there may be more output without more input
        while (data or is_full) and not self._is_over:
            if self._inflate is None:
                data = self._begin(data)
                continue
            try:
                decoded = self._inflate.decompress(data, MAX_PIECE_BYTES)
            except zlib.error as fault:
                raise CorruptBody(str(fault)) from fault
            self._has_content = self._has_content or bool(decoded)
            data, is_full = self._inflate.unconsumed_tail, len(decoded) == MAX_PIECE_BYTES
            if self._inflate.eof:
                is_full = False
                data = self._inflate.unused_data
                self._end()
            yield decoded

    def _begin(self, data: bytes) -> bytes:
        """Begin a member, if enough of it is known. Returns what is left to decode."""
        data = self._start + data
        if self._members:
            data = data.lstrip(b"\0")  # gzip files may be padded with zeros
        self._start = data if len(data) < len(_GZIP) else b""
        if self._start or not data:
            return b""
        if self._members and not data.startswith(_GZIP):
            self._is_over = True
            return b""
        if self._is_gzip:
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        else:  # some servers send deflate without its header
            has_header = data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        return data

    def _end(self) -> None:
        """The current member is complete."""
        self._members += 1
        self._empty += not self._has_content
        if self._empty > MAX_EMPTY_MEMBERS:
            raise CorruptBody(f"more than {MAX_EMPTY_MEMBERS} empty gzip members")
        self._inflate, self._has_content = None, False
        self._is_over = not self._is_gzip

"""Decodes compressed response bodies (RFC 9110, section 8.4). The gateway requests `identity`, but some servers and
proxies compress nevertheless, and OpenAI's clients accept gzip and deflate."""

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

MAX_PIECE_BYTES: Final = 1 << 20  # a small compressed input cannot fill the memory in one call
_MAX_CODINGS: Final = 2


class UnsupportedEncoding(Exception):  # noqa: N818 - says what happened
    """The body has a content coding that cannot be decoded; the message names it."""


class CorruptBody(Exception):  # noqa: N818 - says what happened
    """The body does not have the announced content coding."""


class Decoder(Protocol):
    """Decodes one body incrementally."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces of at most MAX_PIECE_BYTES. Raises CorruptBody."""
        ...


def decoder_for(header: str) -> Decoder | None:
    """The decoder for the value of a `content-encoding` header; None for an identity body. Raises
    UnsupportedEncoding."""
    names = [name for part in header.split(",") if (name := part.strip().lower()) not in ("", "identity")]
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
    """gzip with any number of members, or deflate with or without the zlib header."""

    def __init__(self, name: str) -> None:
        if name not in ("gzip", "x-gzip", "deflate"):
            raise UnsupportedEncoding(name[:40])
        self._is_gzip = name != "deflate"
        self._inflate = self._new()
        self._is_first = True

    def decode_all(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Decode all pieces of the input, in order."""
        for piece in pieces:
            yield from self._decode(piece)

    def _decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            try:
                decoded = self._inflate.decompress(data, MAX_PIECE_BYTES)
            except zlib.error as fault:
                if self._is_gzip or not self._is_first:
                    raise CorruptBody(str(fault)) from fault
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)  # some servers send deflate without its header
                self._is_first = False
                continue
            self._is_first = False
            if decoded:
                yield decoded
            data = self._inflate.unconsumed_tail
            if self._inflate.eof:
                data = self._inflate.unused_data.lstrip(b"\0")  # gzip files may be padded with zeros
                if not self._is_gzip or not data.startswith(b"\x1f\x8b"):
                    return  # whatever follows is no part of the body
                self._inflate = self._new()

    def _new(self) -> "zlib._Decompress":
        return zlib.decompressobj(zlib.MAX_WBITS | 16 if self._is_gzip else zlib.MAX_WBITS)

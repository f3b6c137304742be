"""Decoding of compressed bodies: whatever the boundaries, with bounded work for each piece."""

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.answers import content_encoding
from gateway.upstreams.answers.content_encoding import (
    MAX_EMPTY_MEMBERS,
    MAX_PIECE_BYTES,
    CorruptBody,
    UnsupportedEncoding,
    decoder_for,
)

TEXT = b"data: hello world\n\n" * 9
EMPTY = gzip.compress(b"")


def deflated(data: bytes, bits: int) -> bytes:
    packer = zlib.compressobj(wbits=bits)
    return packer.compress(data) + packer.flush()


BODIES: dict[str, tuple[str, bytes]] = {
    "one-member": ("gzip", gzip.compress(TEXT)),
    "members": ("x-gzip", gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:])),
    "empty-members": ("gzip", EMPTY + gzip.compress(TEXT[:7]) + EMPTY * 9 + gzip.compress(TEXT[7:]) + EMPTY),
    "zeros-between-and-behind": ("gzip", gzip.compress(TEXT[:7]) + b"\0" * 99 + gzip.compress(TEXT[7:]) + b"\0" * 99),
    "rubbish-behind": ("gzip", gzip.compress(TEXT) + b"rubbish" * 9),
    "zlib": ("deflate", deflated(TEXT, zlib.MAX_WBITS) + b"rubbish"),
    "raw-deflate": ("Deflate", deflated(TEXT, -zlib.MAX_WBITS)),
    "twice": ("gzip, GZIP", gzip.compress(gzip.compress(TEXT))),
    "one-in-the-other": ("deflate, gzip", gzip.compress(deflated(TEXT, -zlib.MAX_WBITS))),
}


def pieces_of(encoding: str, parts: list[bytes]) -> Iterator[bytes]:
    decoder = decoder_for(encoding)
    assert decoder is not None
    for part in parts:
        yield from decoder.decode(part)


@pytest.mark.parametrize("name", BODIES)
@given(cuts=st.lists(st.integers(0, 400), max_size=9))
def test_the_boundaries_between_parts_do_not_matter(name: str, cuts: list[int]) -> None:
    encoding, body = BODIES[name]
    borders = [0, *sorted(cuts), max(len(body), *cuts, 0) if cuts else len(body)]
    parts = [body[start:end] for start, end in pairwise(borders)]
    assert b"".join(pieces_of(encoding, parts)) == TEXT


@pytest.mark.parametrize("name", BODIES)
def test_single_bytes_are_decoded(name: str) -> None:
    encoding, body = BODIES[name]
    assert b"".join(pieces_of(encoding, [bytes((byte,)) for byte in body])) == TEXT


@given(data=st.binary(max_size=200), encoding=st.sampled_from(["gzip", "deflate", "gzip, gzip", "deflate, gzip"]))
def test_arbitrary_bytes_are_decoded_or_corrupt(data: bytes, encoding: str) -> None:
    with contextlib.suppress(CorruptBody):
        assert all(len(piece) <= MAX_PIECE_BYTES for piece in pieces_of(encoding, [data[:9], data[9:]]))


@pytest.mark.parametrize("packed", [gzip.compress, lambda data: deflated(data, -zlib.MAX_WBITS)])
def test_a_large_body_comes_in_bounded_pieces_and_complete(packed: Callable[[bytes], bytes]) -> None:
    body = b"x" * (8 * MAX_PIECE_BYTES + 100)
    encoding = "gzip" if packed is gzip.compress else "deflate"
    pieces = list(pieces_of(encoding, [packed(body)]))
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= MAX_PIECE_BYTES


@pytest.mark.parametrize(("encoding", "body"), [("gzip", EMPTY * 5000), ("gzip, gzip", gzip.compress(EMPTY * 5000))])
def test_empty_members_give_way_after_each_and_are_limited(
    monkeypatch: pytest.MonkeyPatch, encoding: str, body: bytes
) -> None:
    made: list[int] = []
    new = zlib.decompressobj
    monkeypatch.setattr(content_encoding.zlib, "decompressobj", lambda bits: (made.append(bits), new(bits))[1])
    pieces, counts = pieces_of(encoding, [body]), [0]
    with contextlib.suppress(CorruptBody):
        while next(pieces) is not None:
            counts.append(len(made))
    assert max(after - before for before, after in pairwise(counts)) <= 2
    assert len(made) <= MAX_EMPTY_MEMBERS + 3


def test_what_is_copied_behind_the_members_grows_with_the_body_and_not_with_its_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """zlib copies what follows a member, and a finished decoder collects everything that it is fed."""
    fed = 0
    new = zlib.decompressobj

    class Counted:
        def __init__(self, bits: int) -> None:
            self._inflate = new(bits)

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal fed
            fed += len(data)
            return self._inflate.decompress(data, most)

        def __getattr__(self, name: str) -> object:
            return getattr(self._inflate, name)

    monkeypatch.setattr(content_encoding.zlib, "decompressobj", Counted)
    body = gzip.compress(b"ab") * 4000
    assert b"".join(pieces_of("gzip", [body])) == b"ab" * 4000
    assert fed <= 4096 * len(body) / len(gzip.compress(b"ab"))
    fed = 0
    assert b"".join(pieces_of("gzip", [gzip.compress(b"ab"), *([b"\0" * 4096] * 100), *([b"x" * 4096] * 100)])) == b"ab"
    assert fed < 8192


@pytest.mark.parametrize("name", ["br", "zstd", "compress", "gzip, br", "gzip, gzip, gzip"])
def test_other_encodings_are_named(name: str) -> None:
    with pytest.raises(UnsupportedEncoding):
        decoder_for(name)


@pytest.mark.parametrize("name", ["", "identity", " , Identity", "utf-8", "none", "binary, chunked", "gzip;q=1"])
def test_a_body_without_a_known_coding_needs_no_decoder(name: str) -> None:
    assert decoder_for(name) is None

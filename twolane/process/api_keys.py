"""API keys: the grammar of keys files, lookup in constant time, and the key that a request carries.

A keys file has one key per line, `name sha256:<64 hex digits>`; blank lines and lines that begin with `#` are skipped.
A name has 1 to 64 letters, digits and `_ . @ -`, and is case-sensitive. Names and keys are unique. The keys themselves
are stored nowhere: they are long and random, so a plain hash of one cannot be reversed.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twolane.process.errors import ConfigurationError

KEY_BYTES: Final = 32
NAME: Final = re.compile(r"[\w.@-]{1,64}")
_LINE: Final = re.compile(rf"(?P<name>{NAME.pattern})\s+sha256:(?P<digest>[0-9a-fA-F]{{64}})")


@dataclass(frozen=True, slots=True)
class Keys:
    """Names with the SHA-256 of their key."""

    entries: tuple[tuple[str, bytes], ...]

    def name_of(self, key: bytes) -> str | None:
        """The name of this key. It is compared with every entry, so that the time taken reveals nothing."""
        digest = hashlib.sha256(key).digest()
        found = None
        for name, expected in self.entries:
            if hmac.compare_digest(digest, expected):
                found = name
        return found


def load_keys(file: Path) -> Keys:
    """Read a keys file. Raises ConfigurationError, which names file and line and never repeats the line."""
    keys = _parse(file, _text_of(file))
    if not keys.entries:
        raise ConfigurationError(f"keys file {file} contains no key")
    return keys


def new_key() -> str:
    """A random key."""
    return f"tl-{secrets.token_urlsafe(KEY_BYTES)}"


def key_line(name: str, key: str) -> str:
    """The line of a keys file that accepts this key."""
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def add_key(file: Path, name: str, key: str) -> None:
    """Append a key to a keys file, which is created if need be. Raises ConfigurationError if the file cannot be read or
    written, is not valid, or contains the name already."""
    known = _text_of(file) if file.exists() else ""
    line = key_line(name, key)
    if any(each == name for each, _ in _parse(file, known).entries):
        raise ConfigurationError(f"keys file {file}: {name} already has a key")
    try:
        with file.open("a", encoding="utf-8") as end:
            end.write(("" if known.endswith("\n") or not known else "\n") + line + "\n")
    except OSError as error:
        raise ConfigurationError(f"keys file {file}: {error.strerror or error}") from error


def bearer_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key in `Authorization: Bearer KEY`; empty if there is none. Header names are in lower case, as in ASGI."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" else b""
    return b""


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"keys file {file}: {cause}") from error


def _parse(file: Path, text: str) -> Keys:
    entries: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped)
        if found is None:
            raise ConfigurationError(f"keys file {file}, line {number}: expected `name sha256:<64 hex digits>`")
        name, digest = found["name"], bytes.fromhex(found["digest"])
        if name in entries:
            raise ConfigurationError(f"keys file {file}, line {number}: duplicate name {name}")
        if digest in entries.values():
            raise ConfigurationError(f"keys file {file}, line {number}: {name} has the same key as another name")
        entries[name] = digest
    return Keys(tuple(entries.items()))

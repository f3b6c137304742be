"""API keys: the grammar of keys files, what each key may do, and the key that a request carries.

A keys file has one key per line: `name sha256:<64 hex digits>`, followed by what restricts the key:

    scopes=ask,metrics      any of `ask` (send requests), `metrics`, `admin`; without it `ask` alone
    models=auto,fast        the models that requests may name
    routes=edits,default    the routes that requests may take
    private-only            every request is treated as private
    locations=eu,on-prem    the locations of targets that requests may be sent to

Blank lines and lines that begin with `#` are skipped; lines end with LF, CR LF or CR. A name has 1 to 64 letters,
digits and `_ . @ -`, and is case-sensitive. Names and keys are unique. The keys themselves are written nowhere: they
are long and random, so a plain hash of one cannot be reversed. A process remembers valid ones in its memory.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from twolane.process.errors import ConfigurationError
from twolane.process.locations import location_of

KEY_HEADERS: Final = frozenset({b"authorization", b"api-key", b"x-api-key"})
INVALID_KEY: Final = (
    "The API key is missing or invalid. Send it as 'Authorization: Bearer KEY', 'api-key' or 'x-api-key'; if several of"
    " these headers are sent, they must contain the same key."
)
KEY_BYTES: Final = 32
NAME: Final = re.compile(r"[\w.@-]{1,64}")
_LINE: Final = re.compile(rf"(?P<name>{NAME.pattern})\s+sha256:(?P<digest>[0-9a-fA-F]{{64}})(?P<options>(\s+\S+)*)")
_PRIVATE_ONLY: Final = "private-only"
_MAX_KNOWN_HEADERS: Final = 1024
_MAX_KNOWN_BYTES: Final = 512  # of one; clients may pad theirs
_OPTIONS: Final = {
    "scopes": "scopes=ask,metrics,admin",
    "models": "models=NAME,NAME",
    "routes": "routes=NAME,NAME",
    _PRIVATE_ONLY: _PRIVATE_ONLY,
    "locations": "locations=NAME,NAME",
}


class KeyScope(StrEnum):
    """What a key is for."""

    SEND = "ask"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One line of a keys file. `models`, `routes` and `locations` restrict its requests; None: all of them."""

    name: str
    scopes: frozenset[KeyScope] = frozenset({KeyScope.SEND})
    models: frozenset[str] | None = None
    routes: frozenset[str] | None = None
    private_only: bool = False
    locations: frozenset[str] | None = None
    is_restricted: bool = field(init=False)  # to models, routes, locations or private requests

    def __post_init__(self) -> None:
        is_restricted = self.private_only or not (self.models is self.routes is self.locations is None)
        object.__setattr__(self, "is_restricted", is_restricted)

    def allows(self, scope: KeyScope) -> bool:
        """Whether the key has this scope. `admin` includes `metrics`."""
        return scope in self.scopes or (scope is KeyScope.METRICS and KeyScope.ADMIN in self.scopes)


class Keys:
    """All keys of a file."""

    def __init__(self, by_digest: Mapping[bytes, Key]) -> None:
        self._by_digest = dict(by_digest)
        self._by_header: dict[bytes, Key] = {}  # valid keys, by the `Authorization` that they were sent in

    def find(self, key: bytes) -> Key | None:
        """What is known of this key, or None. The lookup may take a different time for each SHA-256, which reveals
        nothing about the key that it was made from."""
        return self._by_digest.get(hashlib.sha256(key).digest())

    def of_headers(self, headers: Mapping[bytes, bytes]) -> Key | None:
        """The key of a request, by the headers that `key_of` reads, none of which is repeated. A valid one is hashed
        once: the table of those that were sent is keyed by a secret hash, so looking there reveals nothing either."""
        given = headers.get(b"authorization")
        if given is None or b"api-key" in headers or b"x-api-key" in headers:
            return self.find(key_of(headers.items()))
        known = self._by_header.get(given)
        if known is None:
            known = self.find(key_of(((b"authorization", given),)))
            if known is not None and len(given) <= _MAX_KNOWN_BYTES:
                if len(self._by_header) >= _MAX_KNOWN_HEADERS:
                    self._by_header.clear()
                self._by_header[given] = known
        return known

    def named(self, name: str) -> tuple[Key, bytes] | None:
        """The key with this name and its SHA-256 digest, or None. Not for every request: it looks at all keys."""
        return next(((key, digest) for digest, key in self._by_digest.items() if key.name == name), None)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_digest.values())

    def __len__(self) -> int:
        return len(self._by_digest)


def load_keys(file: Path) -> Keys:
    """Read a keys file, which may contain no key. Raises ConfigurationError, which names file and line and never
    repeats the line."""
    return Keys(_parse(file, _text_of(file)))


def new_key() -> str:
    """A random key."""
    return f"tl-{secrets.token_urlsafe(KEY_BYTES)}"


def key_line(name: str, key: str, options: Iterable[str] = ()) -> str:
    """The line of a keys file that accepts this key. `options` restrict it, see above."""
    return " ".join((name, f"sha256:{hashlib.sha256(key.encode()).hexdigest()}", *options))


def add_key(file: Path, line: str) -> None:
    """Append a line to a keys file, which is created for its owner alone if need be. Raises ConfigurationError if the
    file cannot be read or written, or would not be valid with it."""
    known = _text_of(file) if file.exists() else ""
    text = ("" if known.endswith("\n") or not known else "\n") + line + "\n"
    name = line.split(maxsplit=1)[0]
    if any(key.name == name for key in _parse(file, known).values()):
        raise ConfigurationError(f"keys file {file}: {name} already has a key")
    _parse(file, known + text)
    try:
        with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as end:
            end.write(text)
    except OSError as error:
        raise ConfigurationError(f"keys file {file}: {error.strerror or error}") from error


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key of a request: `Authorization: Bearer KEY`, `api-key: KEY` (Azure) or `x-api-key: KEY` (Anthropic). Empty
    if there is none, or if the headers disagree. Header names are in lower case, as in ASGI."""
    found = b""
    for name, value in headers:
        if name not in KEY_HEADERS:
            continue
        key = value.strip()
        if name == b"authorization":
            scheme, _, key = key.partition(b" ")
            if scheme.lower() != b"bearer":
                return b""
            key = key.strip()
        if key and found not in (b"", key):
            return b""
        found = key or found
    return found


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"keys file {file}: {cause}") from error


def _parse(file: Path, text: str) -> dict[bytes, Key]:
    entries: dict[bytes, Key] = {}
    names: set[str] = set()
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        place = f"keys file {file}, line {number}"
        found = _LINE.fullmatch(stripped)
        if found is None:
            raise ConfigurationError(f"{place}: expected `name sha256:<64 hex digits>`, then options")
        name, digest = found["name"], bytes.fromhex(found["digest"])
        if name in names:
            raise ConfigurationError(f"{place}: duplicate name {name}")
        if digest in entries:
            raise ConfigurationError(f"{place}: {name} has the same key as another name")
        names.add(name)
        entries[digest] = _key(name, found["options"].split(), place)
    return entries


def _key(name: str, options: list[str], place: str) -> Key:
    given: dict[str, frozenset[str]] = {}
    for option in options:
        which, _, values = option.partition("=")
        if which not in _OPTIONS or (which == _PRIVATE_ONLY) == bool(values):
            raise ConfigurationError(f"{place}: {name}: unknown option; allowed: {', '.join(_OPTIONS.values())}")
        if which in given:
            raise ConfigurationError(f"{place}: {name}: {which} is repeated")
        given[which] = frozenset(part for part in values.split(",") if part)
    scopes = given.get("scopes", frozenset({KeyScope.SEND}))
    if not scopes or not scopes <= set(KeyScope):
        raise ConfigurationError(f"{place}: {name}: unknown scope; allowed: {', '.join(KeyScope)}")
    key = Key(
        name=name,
        scopes=frozenset(map(KeyScope, scopes)),
        models=given.get("models"),
        routes=given.get("routes"),
        private_only=_PRIVATE_ONLY in given,
        locations=_locations(given.get("locations"), f"{place}: {name}"),
    )
    if key.is_restricted and KeyScope.SEND not in key.scopes:
        raise ConfigurationError(f"{place}: {name}: models, routes, locations and private-only require the scope ask")
    return key


def _locations(given: frozenset[str] | None, place: str) -> frozenset[str] | None:
    if given is None:
        return None
    try:
        return frozenset(map(location_of, given))
    except ValueError as fault:
        raise ConfigurationError(f"{place}: {fault}") from None

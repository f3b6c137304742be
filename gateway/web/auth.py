"""Who is asking: keys from a file of hashes, on every route except a named few.

A keys file has one key a line, `name sha256:<64 hex digits>`; empty lines and lines that begin with `#` are skipped.
The keys themselves are never stored. Pure ASGI, so that streams pass untouched.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import BadKeysFile, Unauthorized
from gateway.web.asgi_responses import send_error

OPEN_PATHS = frozenset({"/live", "/health"})
_LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Keys:
    """Names by the SHA-256 of their key. Keys are long and random, so one fast hash protects them."""

    entries: tuple[tuple[str, bytes], ...]

    def name_of(self, key: bytes) -> str | None:
        """Whose key this is. Compares with every entry in constant time, so that timing tells nothing."""
        digest = hashlib.sha256(key).digest()
        found = None
        for name, expected in self.entries:
            if hmac.compare_digest(digest, expected):
                found = name
        return found


def load_keys(path: Path) -> Keys:
    """Read a keys file. Raises BadKeysFile naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise BadKeysFile(f"{path}: cannot read the keys file: {_cause(fault)}") from fault
    entries: list[tuple[str, bytes]] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            entries.append(_entry(text, f"{path}:{number}"))
    if not entries:
        raise BadKeysFile(f"{path}: the keys file holds no key")
    if len({name for name, _ in entries}) < len(entries):
        raise BadKeysFile(f"{path}: two keys have the same name")
    return Keys(tuple(entries))


def _entry(text: str, place: str) -> tuple[str, bytes]:
    found = _LINE.fullmatch(text)
    if found is None:
        raise BadKeysFile(f"{place}: expected 'name sha256:<64 hex digits>'")
    return found["name"], bytes.fromhex(found["digest"])


def _cause(fault: OSError | UnicodeDecodeError) -> str:
    return (fault.strerror or str(fault)) if isinstance(fault, OSError) else "not UTF-8"


class Authenticate:
    """ASGI layer: the name of the key goes to `scope["state"]["principal"]`; without a valid key nothing passes."""

    def __init__(self, app: ASGIApp, keys: Keys | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let pass, or answer 401."""
        if self._keys is None or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks anything else
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        name = self._keys.name_of(_bearer(scope))
        if name is None:
            await send_error(send, Unauthorized("Send a valid key as 'Authorization: Bearer KEY'."))
            return
        scope.setdefault("state", {})["principal"] = name
        await self._app(scope, receive, send)


def _bearer(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = bytes(value).partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" else b""
    return b""

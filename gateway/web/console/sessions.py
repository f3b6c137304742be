"""Sessions of the console: a signed cookie that names an API key with the scope `admin`.

The cookie holds no key. It is signed with a secret of the gateway and with the digest of the key, so it ends when it
expires, when the secret changes, and when the key is revoked or replaced. The digest alone could not sign it: somebody
who can read the keys file must not be able to sign in.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from twolane.process.api_keys import Key, Keys, KeyScope

COOKIE: Final = "twolane_console"
LIFETIME_S: Final = 12 * 3600
_MAX_COOKIE_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """`secret` signs the cookies; replicas with the same one accept each other's."""

    keys: Callable[[], Keys]
    wall_s: Callable[[], float]
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def begin(self, key: bytes) -> str | None:
        """The value of the cookie for an API key; None if the key is unknown or lacks the scope `admin`."""
        known = self.keys().find(key)
        if known is None or not known.allows(KeyScope.ADMIN):
            return None
        expires = int(self.wall_s()) + LIFETIME_S
        return f"{quote(known.name)}:{expires}:{self._signature(known.name, expires, hashlib.sha256(key).digest())}"

    def find(self, cookie: str) -> Key | None:
        """The key of a session that is valid now."""
        name, _, rest = cookie.partition(":")
        expires, _, signature = rest.partition(":")
        if not expires.isdecimal() or len(cookie) > _MAX_COOKIE_BYTES:
            return None
        named = self.keys().named(unquote(name))
        if named is None:
            return None
        key, digest = named
        if not hmac.compare_digest(signature.encode(), self._signature(key.name, int(expires), digest).encode()):
            return None
        return key if self.wall_s() < int(expires) and key.allows(KeyScope.ADMIN) else None

    def _signature(self, name: str, expires: int, digest: bytes) -> str:
        signed = b"\n".join((b"console 1", name.encode(), b"%d" % expires, digest))
        return base64.urlsafe_b64encode(hmac.digest(self.secret, signed, "sha256")).decode().rstrip("=")


def cookie_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The value of the console's cookie; empty if there is none."""
    for name, value in headers:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, content = pair.strip().partition("=")
                if key == COOKIE:
                    return content
    return ""


def set_cookie(value: str, *, is_secure: bool) -> bytes:
    """The header that sets the cookie, or deletes it if `value` is empty. It ends with the browser's session, at the
    latest after `LIFETIME_S`."""
    age = "" if value else "; Max-Age=0"
    secure = "; Secure" if is_secure else ""
    return f"{COOKIE}={value}; Path=/console; HttpOnly; SameSite=Strict{secure}{age}".encode()

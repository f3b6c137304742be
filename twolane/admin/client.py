"""HTTP requests to an admin port, with the standard library, so that every image can send them."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 30.0
URL: Final = "TWOLANE_ADMIN_URL"
KEY: Final = "TWOLANE_ADMIN_KEY"
KEY_FILE: Final = "TWOLANE_ADMIN_KEY_FILE"
DEFAULT_PORTS: Final = {"TWOLANE_ADMIN_PORT": "8090", "TWOLANE_WORKER_ADMIN_PORT": "8091"}


class AdminError(Exception):
    """The admin port did not answer, or refused; the message is one line."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would send the key to wherever an answer points, also to another host. No admin port redirects."""

    def redirect_request(self, *_: Any) -> None:
        """None makes the redirect an HTTPError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminPort:
    """The address of an admin port, and the API key for it, if any."""

    url: str
    key: str | None = None
    timeout_s: float = TIMEOUT_S

    def get(self, path: str) -> bytes:
        """The body of a response. Raises AdminError."""
        return self._send(urllib.request.Request(f"{self.url}{path}"))  # noqa: S310 - main checks the scheme

    def post(self, path: str, body: bytes) -> bytes:
        """The body of a response to a JSON body. Raises AdminError."""
        headers = {"content-type": "application/json"}
        return self._send(urllib.request.Request(f"{self.url}{path}", data=body, headers=headers))  # noqa: S310

    def _send(self, request: urllib.request.Request) -> bytes:
        if self.key:
            request.add_header("authorization", f"Bearer {self.key}")
        # No proxy: the environment of a pod may name one, which cannot reach this address.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
        try:
            with opener.open(request, timeout=self.timeout_s) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as refusal:
            raise AdminError(
                f"{request.full_url}: HTTP {refusal.code}: {_reason(refusal)}{_hint(refusal.code)}"
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as fault:
            reason = getattr(fault, "reason", fault)
            raise AdminError(f"{request.full_url}: {str(reason) or type(fault).__name__}") from None


def default_url(environment: Mapping[str, str], port: str) -> str:
    """The admin port of the process in this container: `port` is the variable that sets it."""
    return environment.get(URL) or f"http://127.0.0.1:{environment.get(port) or DEFAULT_PORTS[port]}"


def key_of(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The key in `file`, in the file that TWOLANE_ADMIN_KEY_FILE names, or in TWOLANE_ADMIN_KEY. Raises AdminError."""
    named = file or (Path(environment[KEY_FILE]) if environment.get(KEY_FILE) else None)
    try:
        key = environment.get(KEY, "") if named is None else named.read_text(encoding="utf-8")
    except OSError as fault:
        raise AdminError(f"{named}: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise AdminError(f"{named}: not a key") from None
    key = key.strip()
    if not (key.isascii() and (key.isprintable() or not key)):  # http.client would repeat it in its error
        raise AdminError(f"{named or KEY}: not a key")
    return key or None


def _reason(refusal: urllib.error.HTTPError) -> str:
    try:
        return " ".join(str(json.loads(refusal.read())["error"]["message"]).split())
    except (OSError, ValueError, KeyError, TypeError, RecursionError, http.client.HTTPException):
        return refusal.reason


def _hint(status: int) -> str:
    return f" (set {KEY} or --key-file to a key with the scope admin)" if status in (401, 403) else ""

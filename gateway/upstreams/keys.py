"""API keys of targets: read from environment variables and files as people write them, and followed when files change.

A key that is missing or cannot be sent is a `problem`, named when the policy is checked and when the gateway starts. It
concerns one target, so it stops neither the gateway nor the loading of a policy.
"""

import asyncio
import ipaddress
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.enums import Kind
from gateway.errors import UpstreamAuth
from gateway.types import Target
from twolane.process.file_watch import FileWatch
from twolane.process.locations import IN_CLUSTER

POLL_S: Final = 0.5
_MAX_BYTES: Final = 64 * 1024
_ENCODINGS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
# `NAME=value`, as in a .env file. A name is in upper case or says what it is, because padded keys also contain "=".
_ASSIGNMENT: Final = re.compile(
    r"(?:export\s+|set\s+|\$env:)?(?P<name>[A-Z][A-Z0-9_]*|\w*(?i:key|token|secret)\w*)\s*=\s*(?P<value>[^=\s].*)"
)
_QUOTES: Final = ('"', "'", "`")

_log = logging.getLogger("gateway")


@dataclass(frozen=True, slots=True)
class Key:
    """A key as read. It is empty if there is none; `problem` says why, or why it `is_unusable`. `is_unset`: there is no
    such variable, or it is empty."""

    value: str = ""
    problem: str | None = None
    is_unusable: bool = False
    is_unset: bool = False


class TargetKey:
    """The current key of one target."""

    def __init__(self, target: Target, environment: Mapping[str, str]) -> None:
        self.file = Path(target.key_file) if target.key_file else None
        self._target = target
        self._watch = FileWatch(self.file) if self.file else None
        self._key = read_target_key(target, environment)
        self._fault = self._key.problem  # of the file as it is

    @property
    def problem(self) -> str | None:
        """Why there is no usable key; None if there is one, or if none is configured."""
        return self._key.problem

    @property
    def value(self) -> str:
        """The key; empty if there is none. Raises UpstreamAuth if it cannot be sent in a header."""
        if self._key.is_unusable:
            raise UpstreamAuth("The key for this target cannot be used.", detail="unusable key")
        return self._key.value

    def refresh(self) -> None:
        """Read the file again once it has changed and settled, and as long as it cannot be read. A file that became
        unusable leaves the last key in force. Blocking; raises nothing."""
        if self.file is None or self._watch is None or not self._watch.has_settled(again=bool(self._fault)):
            return
        self._watch.loading()
        key, known = read_key_file(self.file), self._fault
        self._fault = key.problem
        if key.problem is None:
            if key != self._key:
                fields = {"event": "target_key_loaded", "target": self._target.policy_name}
                _log.info("target %s: key changed", self._target.policy_name, extra={"fields": fields})
            self._key = key
            return
        is_kept = bool(self._key.value) and not self._key.is_unusable
        if key.problem != known:
            name, kept = self._target.policy_name, "; the last key is kept" * is_kept
            fields = {"event": "target_key_refused", "target": name, "reason": key.problem}
            _log.warning("target %s: %s%s", name, key.problem, kept, extra={"fields": fields})
        if not is_kept:
            self._key = key


class KeyWatcher:
    """Follows the key files of all targets."""

    def __init__(self) -> None:
        self._keys: list[TargetKey] = []

    def set_keys(self, keys: list[TargetKey]) -> None:
        """Replace the keys that are followed."""
        self._keys = [key for key in keys if key.file is not None]

    async def run(self) -> None:
        """Poll until cancelled. Like the policy's, polling also sees changes behind ConfigMap symlinks."""
        while True:
            await asyncio.sleep(POLL_S)
            keys = self._keys
            if keys:
                await asyncio.to_thread(_refresh, keys)


def _refresh(keys: list[TargetKey]) -> None:
    for key in keys:
        try:
            key.refresh()
        except Exception:  # noqa: BLE001 - one file must not end the watch over the others
            _log.exception("following a key file: unexpected error")


def read_target_key(target: Target, environment: Mapping[str, str]) -> Key:
    """The key that the policy names for a target, from the environment or from a file."""
    if target.key_file is not None:
        return read_key_file(Path(target.key_file))
    if target.key_env is None:
        return Key()
    text = environment.get(target.key_env)
    if text is None:
        return Key(problem=f"key_env: the variable {target.key_env} is not set", is_unset=True)
    key = _named(read_key(text), f"key_env: the variable {target.key_env}")
    return replace(key, is_unset=not text.strip())


def works_without_key(target: Target) -> bool:
    """Whether the target may need no key: it is inside the cluster, or at an address that is not public."""
    host = urlsplit(target.url).hostname or ""
    if target.location == IN_CLUSTER:
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        is_local = host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
        return is_local or (target.kind is not Kind.LITELLM and "." not in host)


def read_key_file(file: Path) -> Key:
    """The key in a file. Never raises: what is wrong with the file is the key's problem."""
    source = f"key_file: {file}"
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as fault:  # ValueError: a NUL character in the path
        return Key(problem=f"{source}: {getattr(fault, 'strerror', None) or fault}")
    if len(data) > _MAX_BYTES:
        return Key(problem=f"{source} is larger than {_MAX_BYTES} bytes", is_unusable=True)
    encoding = next((name for mark, name in _ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return Key(problem=f"{source} is not text", is_unusable=True)
    return _named(read_key(text), source)


def read_key(text: str) -> Key:
    """The key in a text: blank lines, comments, white space, quotes, `NAME=` and `Bearer ` around it are dropped. The
    problem never repeats the text."""
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        return Key(problem="is empty")
    if len(lines) > 1:
        return Key(problem=f"has {len(lines)} lines; expected one key", is_unusable=True)
    value = _bare(lines[0])
    if not value:
        return Key(problem="is empty")
    if not value.isascii() or not value.isprintable():
        return Key(problem="has a character that cannot be sent in an HTTP header", is_unusable=True)
    if " " in value:
        return Key(problem="contains a blank", is_unusable=True)
    return Key(value)


def _bare(line: str) -> str:
    assigned = _ASSIGNMENT.fullmatch(line)
    if assigned is not None:
        line = assigned["value"]
    line = _unquoted(line if line.startswith(_QUOTES) else line.partition(" #")[0])
    header, colon, rest = line.partition(":")
    if colon and header.strip().lower() == "authorization":
        line = rest.strip()
    scheme, _, rest = line.partition(" ")
    return _unquoted(rest) if scheme.lower() == "bearer" else line


def _unquoted(text: str) -> str:
    """Without the quotes around it, and without a comment behind them."""
    text = text.strip()
    if text.startswith(_QUOTES):
        quoted, end, rest = text[1:].partition(text[0])
        if end and (not rest.strip() or rest.strip().startswith("#")):
            return quoted.strip()
    return text


def _named(key: Key, source: str) -> Key:
    return replace(key, problem=f"{source} {key.problem}") if key.problem else key

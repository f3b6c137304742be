"""Who may ask: a file of hashed keys, compared in constant time.

One key per line, `name sha256:<64 hex digits>`; empty lines and lines that begin with # say nothing. The keys
themselves are nowhere: a key is long and random, so a plain hash of it cannot be turned round.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from diffusion_worker.errors import BadSetting

_LINE = re.compile(r"(?P<name>\S+)\s+sha256:(?P<digest>[0-9a-fA-F]{64})")


class KeyRing:
    """Hashes of the keys that open this worker, by name."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    def holder(self, key: bytes) -> str | None:
        """The name that belongs to a key, or None. Looks at every entry, so that time tells nothing."""
        digest = hashlib.sha256(key).digest()
        found = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def load_keys(path: Path) -> KeyRing:
    """The keys of a file. Raises BadSetting naming file and line; never repeats what stands there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSetting(f"keys file {path}: {reason}") from error
    digests: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise BadSetting(f"keys file {path}, line {number}: expected `name sha256:<64 hex digits>`")
        if found["name"] in digests:
            raise BadSetting(f"keys file {path}, line {number}: the name {found['name']} stands twice")
        digests[found["name"]] = bytes.fromhex(found["digest"])
    if not digests:
        raise BadSetting(f"keys file {path} holds no key")
    return KeyRing(digests)

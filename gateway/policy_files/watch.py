"""The running policy: replaced whole, and only by one that loads.

Knows when to read the file only because it is told; requests hold the snapshot that they began with.
"""

from collections.abc import Mapping
from pathlib import Path

from gateway.core.policy import Policy
from gateway.policy_files.load import load


class Policies:
    """Holds the current policy. Made only with one that loads: without a policy there is no gateway."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        """Raises PolicyError."""
        self._path = path
        self._environment = environment
        self._current = load(path, environment)

    @property
    def current(self) -> Policy:
        """The policy for requests that begin now."""
        return self._current

    def reload(self) -> bool:
        """Prepare (raises PolicyError, and the running policy stays), then swap, which cannot fail. Did it change?"""
        prepared = load(self._path, self._environment)
        changed = prepared.content_hash != self._current.content_hash
        self._current = prepared
        return changed

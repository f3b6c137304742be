"""Whether a file has changed.

Polling is deliberate: unlike inotify it sees changes on network file systems and the symlink swaps by which Kubernetes
updates a ConfigMap or a Secret, and it costs one stat per check.
"""

import os
from pathlib import Path

Fingerprint = tuple[str, int, int, int, int]


def fingerprint(path: Path) -> Fingerprint | None:
    """Identifies a version of a file without reading it; None if the file does not exist. Follows symlinks. The time of
    the last status change is part of it, so that a file that could not be read is read again after a chmod."""
    try:
        found = path.stat()
        return os.path.realpath(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return None


class FileWatch:
    """Reports when a file differs from the version that was loaded last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded = self._last = fingerprint(path)

    def loading(self) -> None:
        """The file is about to be read."""
        self._loaded = fingerprint(self._path)

    def has_changed(self) -> bool:
        """Whether the file differs from the loaded one now."""
        return fingerprint(self._path) != self._loaded

    def has_settled(self, *, again: bool = False) -> bool:
        """Whether the file differs from the loaded one and has not changed since the last check (it may be half
        written). `again`: loading it failed, so it need not differ."""
        before, self._last = self._last, fingerprint(self._path)
        return self._last == before and (again or self._last != self._loaded)

"""A log file that rotates when it is full, written by several processes and possibly rotated by other programs.

Before each write, under the file's lock, a writer checks that its open file is still the one at the path; so no line is
written to a file that was moved away (`logrotate` needs neither `copytruncate` nor a signal). POSIX only.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path


class RotatingFile:
    """Append to `path`; before it exceeds `max_bytes` (0: never) it becomes `path.1`, that `path.2`, up to `keep`."""

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        """Raises OSError."""
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        self._file = path.open("ab", buffering=0)

    def append(self, lines: bytes) -> None:
        """Write all lines or none. Raises OSError."""
        if not stat.S_ISREG(self._state().st_mode):  # a pipe or a terminal can neither rotate nor be truncated
            self._file.write(lines)
            return
        while True:
            if self._is_moved():
                self._reopen()
            with self._lock():
                if self._is_moved() or (self._is_full(len(lines)) and self._rotate()):
                    continue
                self._write(lines)
                return

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _state(self) -> os.stat_result:
        return os.fstat(self._file.fileno())

    def _is_moved(self) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), self._state())
        except FileNotFoundError:
            return True

    def _is_full(self, more: int) -> bool:
        size = self._state().st_size
        return 0 < self._max_bytes < size + more and size > 0

    def _reopen(self) -> None:
        opened = self._path.open("ab", buffering=0)
        self._file.close()
        self._file = opened

    def _rotate(self) -> bool:
        """False if the folder is not writable: a growing file is better than lost lines."""
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{number + 1}") for number in range(self._keep))]
        try:
            for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
                with contextlib.suppress(FileNotFoundError):
                    newer.replace(older)
        except OSError:
            return False
        return True

    def _write(self, lines: bytes) -> None:
        start, rest = self._state().st_size, memoryview(lines)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            os.ftruncate(self._file.fileno(), start)  # a partial line would corrupt the next one
            raise

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Excludes other writers; the system releases it when a process dies."""
        held = self._file.fileno()
        with contextlib.suppress(OSError):  # a file system without locks: use one process per file
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_UN)

"""A file of lines that is put aside when it is full: by any of the processes that write it, or by somebody else.

Before each write a writer makes sure, under the file's lock, that what it holds open is what the path names; so no line
goes to a file that was moved away, whoever moved it (`logrotate` needs neither `copytruncate` nor a signal). Knows
nothing of what the lines say. POSIX only.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path


class RotatingFile:
    """Append to `path`; before it exceeds `most_bytes` (0: never) it becomes `path.1`, that `path.2`, up to `keep`."""

    def __init__(self, path: Path, *, most_bytes: int, keep: int) -> None:
        """Raises OSError."""
        self._path, self._most_bytes, self._keep = path, most_bytes, keep
        self._file = path.open("ab", buffering=0)

    def append(self, lines: bytes) -> None:
        """All of it or nothing. Raises OSError."""
        if not stat.S_ISREG(self._state().st_mode):  # a pipe or a terminal: nothing to put aside, nor to take back
            self._file.write(lines)
            return
        while True:
            if self._is_moved():
                self._reopen()
            with self._lock():
                if self._is_moved() or (self._is_full(len(lines)) and self._put_aside()):
                    continue
                self._write(lines)
                return

    def close(self) -> None:
        """For good."""
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
        return 0 < self._most_bytes < size + more and size > 0

    def _reopen(self) -> None:
        opened = self._path.open("ab", buffering=0)
        self._file.close()
        self._file = opened

    def _put_aside(self) -> bool:
        """False if the folder does not let us: a file that grows is better than lines that are lost."""
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{number + 1}") for number in range(self._keep))]
        try:
            for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
                with contextlib.suppress(FileNotFoundError):
                    newer.replace(older)
        except OSError:
            return False
        return True

    def _write(self, lines: bytes) -> None:
        begin, rest = self._state().st_size, memoryview(lines)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            os.ftruncate(self._file.fileno(), begin)  # half a line would spoil the next one
            raise

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Against the other writers; it goes with the process that holds it."""
        held = self._file.fileno()
        with contextlib.suppress(OSError):  # a file system without locks: then let one process write a file
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_UN)

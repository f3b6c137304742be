"""Constraints made ready and kept: some in memory, more on disk, found by what they were made from.

A file is written beside its place and moved there, so a reader never sees half of one; a file that cannot be read is
removed and counts as absent. Several processes may share a folder. Knows nothing of how automata are made.
"""

import contextlib
import os
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Final

from diffusion_worker.constraints.compiled import CompiledConstraint, from_bytes, to_bytes

IN_MEMORY: Final = 64  # constraints
ON_DISK_BYTES: Final = 512 << 20
_SUFFIX: Final = ".constraint"
_ABANDONED_S: Final = 3600.0  # after which a half-written file has no writer any more


class ConstraintCache:
    """A bounded memory over a bounded folder; the least recently used leaves first. Safe to share between threads.
    Raises OSError when the folder cannot be made; later it is never an error."""

    def __init__(
        self, folder: Path | None = None, *, in_memory: int = IN_MEMORY, on_disk_bytes: int = ON_DISK_BYTES
    ) -> None:
        self._folder, self._in_memory, self._on_disk_bytes = folder, in_memory, on_disk_bytes
        self._memory: OrderedDict[str, CompiledConstraint] = OrderedDict()
        self._lock = Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get_from_memory(self, digest: str) -> CompiledConstraint | None:
        """What is in memory; no look at the disk."""
        with self._lock:
            found = self._memory.get(digest)
            if found is not None:
                self._memory.move_to_end(digest)
            return found

    def get(self, digest: str) -> CompiledConstraint | None:
        """What was put under this digest, here or by an earlier process."""
        found = self.get_from_memory(digest)
        if found is None and (found := self._read(digest)) is not None:
            self._remember(digest, found)
        return found

    def put(self, digest: str, compiled: CompiledConstraint) -> None:
        """Keep it. A disk that cannot be written to costs the next process a compilation, and nothing else."""
        self._remember(digest, compiled)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._write(self._folder, digest, to_bytes(compiled))

    def clear_memory(self) -> None:
        """Empty the memory: other weights have come, with other words."""
        with self._lock:
            self._memory.clear()

    def _remember(self, digest: str, compiled: CompiledConstraint) -> None:
        with self._lock:
            self._memory[digest] = compiled
            self._memory.move_to_end(digest)
            while len(self._memory) > self._in_memory:
                self._memory.popitem(last=False)

    def _read(self, digest: str) -> CompiledConstraint | None:
        if self._folder is None:
            return None
        path = self._folder / (digest + _SUFFIX)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        try:
            return from_bytes(content)
        except ValueError:
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def _write(self, folder: Path, digest: str, content: bytes) -> None:
        if len(content) > self._on_disk_bytes:
            return
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with open(handle, "wb") as file:
                file.write(content)
            Path(name).replace(folder / (digest + _SUFFIX))
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        self._evict(folder)

    def _evict(self, folder: Path) -> None:
        """Oldest first; and what a process that died has left half-written."""
        kept, bytes_kept = [], 0
        for path in folder.iterdir():
            with contextlib.suppress(OSError):  # another process may have removed it meanwhile
                info = path.stat()
                if path.suffix == _SUFFIX:
                    kept.append((info.st_mtime, info.st_size, path))
                    bytes_kept += info.st_size
                elif path.suffix == ".part" and info.st_mtime < time.time() - _ABANDONED_S:
                    path.unlink()
        for _, size, path in sorted(kept):
            if bytes_kept <= self._on_disk_bytes:
                break
            path.unlink(missing_ok=True)
            bytes_kept -= size

"""The cache of compiled constraints: an LRU in memory over an LRU folder on disk, keyed by digest.

A file is written under a temporary name and renamed, so a reader never sees a partial file; an unreadable file is
removed and counts as absent. Several processes may share a folder.
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
_ABANDONED_S: Final = 3600.0  # after which a partial file is considered abandoned


class ConstraintCache:
    """Bounded in memory and on disk; the least recently used entry is evicted first. Thread-safe. Raises OSError if the
    folder cannot be created; later disk errors are ignored."""

    def __init__(
        self, folder: Path | None = None, *, in_memory: int = IN_MEMORY, on_disk_bytes: int = ON_DISK_BYTES
    ) -> None:
        self._folder, self._in_memory, self._on_disk_bytes = folder, in_memory, on_disk_bytes
        self._memory: OrderedDict[str, CompiledConstraint] = OrderedDict()
        self._lock = Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get_from_memory(self, digest: str) -> CompiledConstraint | None:
        """Look up in memory only."""
        with self._lock:
            found = self._memory.get(digest)
            if found is not None:
                self._memory.move_to_end(digest)
            return found

    def get(self, digest: str) -> CompiledConstraint | None:
        """Look up in memory, then on disk."""
        found = self.get_from_memory(digest)
        if found is None and (found := self._read(digest)) is not None:
            self._remember(digest, found)
        return found

    def put(self, digest: str, compiled: CompiledConstraint) -> None:
        """Store. A disk that cannot be written to costs the next process a compilation, nothing else."""
        self._remember(digest, compiled)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._write(self._folder, digest, to_bytes(compiled))

    def clear_memory(self) -> None:
        """Empty the memory: other weights with another vocabulary were loaded."""
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
        """Remove the oldest entries above the limit, and partial files of processes that died."""
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

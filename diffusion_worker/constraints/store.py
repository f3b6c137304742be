"""Compiled automata kept: some in memory, more on disk, found by what they were compiled from.

A file is written beside its place and moved there, so a reader never sees half of one; a file that cannot be read is
removed and counts as absent. Knows nothing of how automata are made.
"""

import contextlib
import io
import json
import os
import tempfile
import zipfile
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from threading import Lock

import numpy as np

from diffusion_worker.constraints.automaton import ByteAutomaton
from diffusion_worker.constraints.compile import Compiled, Stats


def to_bytes(compiled: Compiled) -> bytes:
    """One self-contained file."""
    facts = {"start": compiled.automaton.start, "needs_check": compiled.needs_check, "stats": asdict(compiled.stats)}
    with io.BytesIO() as file:
        np.savez_compressed(
            file,
            classes=compiled.automaton.classes,
            next=compiled.automaton.next,
            accepting=compiled.automaton.accepting,
            facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
        )
        return file.getvalue()


def from_bytes(content: bytes) -> Compiled:
    """The reverse. Raises ValueError for anything else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            facts = json.loads(file["facts"].tobytes())
            return Compiled(
                automaton=ByteAutomaton(
                    classes=file["classes"], next=file["next"], accepting=file["accepting"], start=facts["start"]
                ),
                needs_check=tuple(facts["needs_check"]),
                stats=Stats(**facts["stats"]),
            )
    except (KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"not a compiled constraint: {error}") from error


class Store:
    """A bounded memory over a bounded folder; the least recently used leaves first. Safe to share between threads."""

    def __init__(self, folder: Path | None = None, *, in_memory: int = 64, on_disk: int = 4096) -> None:
        self._folder, self._in_memory, self._on_disk = folder, in_memory, on_disk
        self._kept: OrderedDict[str, Compiled] = OrderedDict()
        self._lock = Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, digest: str) -> Compiled | None:
        """What was put under this digest, here or by an earlier process."""
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
                return found
        found = self._read(digest)
        if found is not None:
            self._keep(digest, found)
        return found

    def put(self, digest: str, compiled: Compiled) -> None:
        """Keep it. A disk that cannot be written to costs the next process a compilation, and nothing else."""
        self._keep(digest, compiled)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._write(self._folder, digest, to_bytes(compiled))

    def _keep(self, digest: str, compiled: Compiled) -> None:
        with self._lock:
            self._kept[digest] = compiled
            self._kept.move_to_end(digest)
            while len(self._kept) > self._in_memory:
                self._kept.popitem(last=False)

    def _read(self, digest: str) -> Compiled | None:
        if self._folder is None:
            return None
        path = self._folder / f"{digest}.npz"
        try:
            content = path.read_bytes()
            os.utime(path)
            return from_bytes(content)
        except OSError:
            return None
        except ValueError:
            path.unlink(missing_ok=True)
            return None

    def _write(self, folder: Path, digest: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            file.write(content)
        Path(file.name).replace(folder / f"{digest}.npz")
        files = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for path in files[: max(0, len(files) - self._on_disk)]:
            path.unlink(missing_ok=True)

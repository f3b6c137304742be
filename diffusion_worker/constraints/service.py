"""Compilation as a service: in a process of its own, within a bounded time, each constraint once.

Pure Python in a thread would stall the engine, so the work is done by a child process that is started on first use and
again after it died or was stopped for taking too long. Calls block; whoever must not block calls from a thread.
"""

import contextlib
import json
import select
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Any, Final

from diffusion_worker.constraints.child import LENGTH_BYTES, frame
from diffusion_worker.constraints.compile import COMPILER_VERSION, Compiled
from diffusion_worker.constraints.constraint import Constraint
from diffusion_worker.constraints.store import Store, from_bytes
from diffusion_worker.errors import BadAsk, CompilerFailed, OverCapacity, UnsupportedSchema

TIMEOUT_S: Final = 10.0
_CHUNK: Final = 1 << 16


class _ChildGone(Exception):  # noqa: N818 - says what happened; never leaves this module
    """The pipe to the child is closed."""


class _TooLong(Exception):  # noqa: N818 - says what happened; never leaves this module
    """The deadline passed."""


class CompileService:
    """Compiles constraints, from the store where it can. Close it, or use it as a context."""

    def __init__(self, store: Store | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._store = store or Store()
        self._timeout_s = timeout_s
        self._turn = Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "CompileService":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child. A later call starts another one."""
        with self._turn:
            self._stop()

    def compile(self, constraint: Constraint) -> Compiled:
        """The automaton of a constraint; blocks for at most the timeout, waiting for its turn included. Raises BadAsk
        and UnsupportedSchema as the compiler does, the latter also for one that takes too long; OverCapacity if others
        are in the way; CompilerFailed if the child died twice."""
        digest = constraint.digest(f"automaton {COMPILER_VERSION}")
        if (found := self._store.get(digest)) is not None:
            return found
        deadline = time.monotonic() + self._timeout_s
        if not self._turn.acquire(timeout=self._timeout_s):
            raise OverCapacity("other constraints are being compiled", retry_after_s=self._timeout_s)
        try:
            if (found := self._store.get(digest)) is not None:  # compiled while this call waited
                return found
            compiled = self._compiled(constraint, deadline)
        finally:
            self._turn.release()
        self._store.put(digest, compiled)
        return compiled

    def _compiled(self, constraint: Constraint, deadline: float) -> Compiled:
        for _ in range(2):  # a child that died between two constraints is no fault of this one
            try:
                return _read_answer(self._exchange(constraint.content(), deadline))
            except _ChildGone:
                self._stop()
            except _TooLong:
                self._stop()
                message = f"takes longer than {self._timeout_s:g} s to compile"
                raise UnsupportedSchema(message, keyword=constraint.kind, pointer="") from None
        raise CompilerFailed("the compiler died on this constraint")

    def _exchange(self, content: bytes, deadline: float) -> bytes:
        child = self._running()
        assert child.stdin is not None
        try:
            child.stdin.write(frame(content))
            child.stdin.flush()
        except OSError as error:
            raise _ChildGone from error
        length = int.from_bytes(_read(child, LENGTH_BYTES, deadline), "big")
        return _read(child, length, deadline)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._stop()
            command = [sys.executable, "-m", "diffusion_worker.constraints.child"]
            root = Path(__file__).parents[2]
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)  # noqa: S603
        return self._child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _read(child: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    """Exactly `size` bytes of the child's output."""
    assert child.stdout is not None
    parts: list[bytes] = []
    missing = size
    while missing:
        if not select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise _TooLong
        part = child.stdout.raw.read(min(missing, _CHUNK))  # type: ignore[attr-defined]  # unbuffered, as select sees it
        if not part:
            raise _ChildGone
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _read_answer(content: bytes) -> Compiled:
    if content[:1] == b"C":
        return from_bytes(content[1:])
    refusal: dict[str, Any] = json.loads(content[1:])
    if "keyword" not in refusal:
        raise BadAsk(refusal["message"], param=refusal["param"])
    suffix = f" (`{refusal['keyword']}` at `#{refusal['pointer']}`)"
    raise UnsupportedSchema(
        refusal["message"].removesuffix(suffix),
        keyword=refusal["keyword"],
        pointer=refusal["pointer"],
        param=refusal["param"],
    )

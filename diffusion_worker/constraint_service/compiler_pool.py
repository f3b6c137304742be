"""Work on clients' constraints in processes of their own, within bounded time: one compiles, one judges answers.

Pure Python in a thread would stall the engine, and a hostile expression would hold the interpreter for ever. A process
is started on first use, ended when its job takes too long or nobody waits for it any more, and then started afresh.
Belongs to one event loop. Knows what is asked for, keeps no results.
"""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from diffusion_worker.constraint_service.compiler_process import constraint_job, vocabulary_job
from diffusion_worker.constraint_service.pipe_framing import LENGTH_BYTES, frame, read_refusal
from diffusion_worker.constraint_service.validator_process import judge_job
from diffusion_worker.constraints.compiled import Headers, Ready, from_bytes
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes
from diffusion_worker.errors import CompilerFailed, OverCapacity, UnsupportedSchema

COMPILE_S: Final = 10.0
JUDGE_S: Final = 3.0
_START_S: Final = 30.0  # to start and to read a vocabulary, on a busy machine
_GRACE_S: Final = 5.0  # after which a process ends itself, should we have gone
_TRIES: Final = 2  # a process that died between two jobs is no fault of this one
_ROOT: Final = Path(__file__).parents[2]


class _Gone(Exception):  # noqa: N818 - says what happened; never leaves this module
    """The process has died."""


class Child:
    """One process that does one job after the other. Take its turn before you ask."""

    def __init__(self, module: str, *, longest_s: float) -> None:
        self._command = (
            sys.executable,
            "-m",
            f"diffusion_worker.constraint_service.{module}",
            str(longest_s + _GRACE_S),
        )
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._ending: set[asyncio.Task[int]] = set()
        self.knows = ""  # what it was told beforehand, by name

    @contextlib.asynccontextmanager
    async def turn(self, wait_s: float) -> AsyncIterator[None]:
        """The process for oneself. Raises OverCapacity if others are in the way for too long."""
        try:
            async with asyncio.timeout(wait_s):
                await self._turn.acquire()
        except TimeoutError:
            raise OverCapacity("other constraints are being worked on", retry_after_s=wait_s) from None
        try:
            yield
        finally:
            self._turn.release()

    async def ask(self, job: bytes, limit_s: float) -> bytes:
        """What the process says. Raises InvalidRequest or UnsupportedSchema as it does, TimeoutError after `limit_s`.
        However this ends but well, cancelled too, the process has ended with it."""
        said = b""
        try:
            async with asyncio.timeout(limit_s):
                said = await self._exchange(job)
        except TimeoutError:  # an OSError, too
            raise
        except (OSError, EOFError) as error:  # a broken pipe, or one that ends too early
            raise _Gone from error
        finally:
            if not said:
                self._end()
        if said[:1] == b"-":
            raise read_refusal(said[1:])
        return said[1:]

    async def warm(self) -> None:
        """Start the process, if nobody is about to."""
        if not self._turn.locked():
            async with self._turn:
                await self._running()

    async def close(self) -> None:
        """End the process, and see it ended. A later question starts another one."""
        self._end()
        await asyncio.gather(*self._ending)

    async def _exchange(self, job: bytes) -> bytes:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame(job))
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
        return await process.stdout.readexactly(length)

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._end()
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, cwd=_ROOT)
        return self._process

    def _end(self) -> None:
        process, self._process, self.knows = self._process, None, ""
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        waiting = asyncio.create_task(process.wait())
        self._ending.add(waiting)
        waiting.add_done_callback(self._ending.discard)


class CompilerPool:
    """Both processes. Close it."""

    def __init__(self, *, compile_s: float = COMPILE_S, judge_s: float = JUDGE_S) -> None:
        self._compile_s, self._judge_s = compile_s, judge_s
        self._compiler = Child("compiler_process", longest_s=max(compile_s, _START_S))
        self._judge = Child("validator_process", longest_s=judge_s)

    async def ready(self, constraint: Constraint, words: VocabularyBytes, headers: Headers) -> Ready:
        """The constraint for these words. Raises InvalidRequest and UnsupportedSchema as the compiler does, the latter
        also for one that takes too long; OverCapacity if others are in the way; CompilerFailed if the process died
        twice."""
        await self._judge.warm()  # it will be wanted when the answer is there
        job = constraint_job(constraint, headers)
        async with self._compiler.turn(self._compile_s):
            for _ in range(_TRIES):
                with contextlib.suppress(_Gone):
                    await self._teach(words)
                    try:
                        made = await self._compiler.ask(job, self._compile_s)
                    except TimeoutError:
                        raise _too_long(constraint, "compile", self._compile_s) from None
                    return await asyncio.to_thread(from_bytes, made)
        raise CompilerFailed("the compiler died on this constraint")

    async def violation(self, constraint: Constraint, text: str) -> str | None:
        """What is wrong with a whole answer; None: nothing. Raises as `ready` does."""
        job = judge_job(constraint, text)
        async with self._judge.turn(self._compile_s):
            for _ in range(_TRIES):
                with contextlib.suppress(_Gone):
                    try:
                        said = await self._judge.ask(job, self._judge_s)
                    except TimeoutError:
                        raise _too_long(constraint, "check", self._judge_s) from None
                    found: str | None = json.loads(said)
                    return found
        raise CompilerFailed("the judge died on this answer")

    async def close(self) -> None:
        """End both."""
        await asyncio.gather(self._compiler.close(), self._judge.close())

    async def _teach(self, words: VocabularyBytes) -> None:
        """Tell the compiler the words, unless it knows them."""
        if self._compiler.knows == words.digest:
            return
        try:
            await self._compiler.ask(vocabulary_job(words), _START_S)
        except TimeoutError:
            raise CompilerFailed("the compiler could not read the vocabulary in time") from None
        self._compiler.knows = words.digest


def _too_long(constraint: Constraint, task: str, limit_s: float) -> UnsupportedSchema:
    return UnsupportedSchema(f"takes longer than {limit_s:g} s to {task}", keyword=constraint.kind, pointer="")

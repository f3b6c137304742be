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
from diffusion_worker.constraint_service.validator_process import validation_job
from diffusion_worker.constraints.compiled import CompiledConstraint, TokenPrefixes, from_bytes
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes
from diffusion_worker.errors import CompilerFailed, OverCapacity, UnsupportedSchema

COMPILE_S: Final = 10.0
VALIDATE_S: Final = 3.0
_START_S: Final = 30.0  # to start and to read a vocabulary, on a busy machine
_GRACE_S: Final = 5.0  # after which a process ends itself, should we have gone
_ATTEMPTS: Final = 2  # a process that died between two jobs is no fault of this one
_ROOT: Final = Path(__file__).parents[2]


class _ProcessDied(Exception):  # noqa: N818 - says what happened; never leaves this module
    """The process has died."""


class JobProcess:
    """One process that does one job after the other. Take its turn before you ask."""

    def __init__(self, module: str, *, longest_s: float) -> None:
        self._command = (
            sys.executable,
            "-m",
            f"diffusion_worker.constraint_service.{module}",
            str(longest_s + _GRACE_S),
        )
        self._exclusive = asyncio.Lock()
        self._process: Process | None = None
        self._exiting: set[asyncio.Task[int]] = set()
        self.loaded_vocabulary = ""  # what it was told beforehand, by name

    @contextlib.asynccontextmanager
    async def exclusive(self, wait_s: float) -> AsyncIterator[None]:
        """The process for oneself. Raises OverCapacity if others are in the way for too long."""
        try:
            async with asyncio.timeout(wait_s):
                await self._exclusive.acquire()
        except TimeoutError:
            raise OverCapacity("other constraints are being worked on", retry_after_s=wait_s) from None
        try:
            yield
        finally:
            self._exclusive.release()

    async def request(self, job: bytes, limit_s: float) -> bytes:
        """What the process says. Raises InvalidRequest or UnsupportedSchema as it does, TimeoutError after `limit_s`.
        However this ends but well, cancelled too, the process has ended with it."""
        response = b""
        try:
            async with asyncio.timeout(limit_s):
                response = await self._send(job)
        except TimeoutError:  # an OSError, too
            raise
        except (OSError, EOFError) as error:  # a broken pipe, or one that ends too early
            raise _ProcessDied from error
        finally:
            if not response:
                self._kill()
        if response[:1] == b"-":
            raise read_refusal(response[1:])
        return response[1:]

    async def start(self) -> None:
        """Start the process, if nobody is about to."""
        if not self._exclusive.locked():
            async with self._exclusive:
                await self._ensure_running()

    async def close(self) -> None:
        """End the process, and see it ended. A later question starts another one."""
        self._kill()
        await asyncio.gather(*self._exiting)

    async def _send(self, job: bytes) -> bytes:
        process = await self._ensure_running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame(job))
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
        return await process.stdout.readexactly(length)

    async def _ensure_running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._kill()
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, cwd=_ROOT)
        return self._process

    def _kill(self) -> None:
        process, self._process, self.loaded_vocabulary = self._process, None, ""
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        waiting = asyncio.create_task(process.wait())
        self._exiting.add(waiting)
        waiting.add_done_callback(self._exiting.discard)


class CompilerPool:
    """Both processes. Close it."""

    def __init__(self, *, compile_s: float = COMPILE_S, validate_s: float = VALIDATE_S) -> None:
        self._compile_s, self._validate_s = compile_s, validate_s
        self._compiler = JobProcess("compiler_process", longest_s=max(compile_s, _START_S))
        self._validator = JobProcess("validator_process", longest_s=validate_s)

    async def compile(
        self, constraint: Constraint, vocabulary: VocabularyBytes, prefixes: TokenPrefixes
    ) -> CompiledConstraint:
        """The constraint for these words. Raises InvalidRequest and UnsupportedSchema as the compiler does, the latter
        also for one that takes too long; OverCapacity if others are in the way; CompilerFailed if the process died
        twice."""
        await self._validator.start()  # it will be wanted when the answer is there
        job = constraint_job(constraint, prefixes)
        async with self._compiler.exclusive(self._compile_s):
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(_ProcessDied):
                    await self._load_vocabulary(vocabulary)
                    try:
                        compiled = await self._compiler.request(job, self._compile_s)
                    except TimeoutError:
                        raise _too_long(constraint, "compile", self._compile_s) from None
                    return await asyncio.to_thread(from_bytes, compiled)
        raise CompilerFailed("the compiler died on this constraint")

    async def validate(self, constraint: Constraint, text: str) -> str | None:
        """What is wrong with a whole answer; None: nothing. Raises as `compile` does."""
        job = validation_job(constraint, text)
        async with self._validator.exclusive(self._compile_s):
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(_ProcessDied):
                    try:
                        response = await self._validator.request(job, self._validate_s)
                    except TimeoutError:
                        raise _too_long(constraint, "check", self._validate_s) from None
                    violation: str | None = json.loads(response)
                    return violation
        raise CompilerFailed("the judge died on this answer")

    async def close(self) -> None:
        """End both."""
        await asyncio.gather(self._compiler.close(), self._validator.close())

    async def _load_vocabulary(self, vocabulary: VocabularyBytes) -> None:
        """Tell the compiler the words, unless it knows them."""
        if self._compiler.loaded_vocabulary == vocabulary.digest:
            return
        try:
            await self._compiler.request(vocabulary_job(vocabulary), _START_S)
        except TimeoutError:
            raise CompilerFailed("the compiler could not read the vocabulary in time") from None
        self._compiler.loaded_vocabulary = vocabulary.digest


def _too_long(constraint: Constraint, task: str, limit_s: float) -> UnsupportedSchema:
    return UnsupportedSchema(f"takes longer than {limit_s:g} s to {task}", keyword=constraint.kind, pointer="")

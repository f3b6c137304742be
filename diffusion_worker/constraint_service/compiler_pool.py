"""The compiler pool: one compiler process and one validator process, each with a time limit per job.

Compiling in a thread would stall the engine, and a hostile regular expression could hold the interpreter lock
indefinitely. A process is started on first use and killed when a job exceeds its limit or nobody waits for it any
longer; the next job starts a new one. Belongs to one event loop; keeps no results.
"""

import asyncio
import contextlib
import json
import sys
from asyncio import StreamReader, StreamWriter
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
_START_S: Final = 30.0  # to start, and to load a vocabulary, on a busy machine
_GRACE_S: Final = 5.0  # after which an orphaned process ends itself
_ATTEMPTS: Final = 2  # a process may have died between two jobs
_ROOT: Final = Path(__file__).parents[2]


class _ProcessDied(Exception):  # noqa: N818 - says what happened; never leaves this module
    """The process has died."""


class JobProcess:
    """A process that does one job at a time. Callers must hold `exclusive` to make a request."""

    def __init__(self, module: str, *, longest_s: float) -> None:
        self._command = (
            sys.executable,
            "-m",
            f"diffusion_worker.constraint_service.{module}",
            str(longest_s + _GRACE_S),
        )
        self._exclusive = asyncio.Lock()
        self._process: Process | None = None
        self._is_ready = False
        self._exiting: set[asyncio.Task[int]] = set()
        self.loaded_vocabulary = ""  # digest

    @contextlib.asynccontextmanager
    async def exclusive(self, wait_s: float) -> AsyncIterator[None]:
        """Exclusive use of the process. Raises OverCapacity if it stays busy for `wait_s`."""
        try:
            async with asyncio.timeout(wait_s):
                await self._exclusive.acquire()
        except TimeoutError:
            raise OverCapacity("the constraint compiler is busy", retry_after_s=wait_s) from None
        try:
            yield
        finally:
            self._exclusive.release()

    async def request(self, job: bytes, limit_s: float) -> bytes:
        """Send a job and return the response. Raises InvalidRequest or UnsupportedSchema as the job does, TimeoutError
        after `limit_s`, which do not include the start of the process, CompilerFailed if it does not start. The process
        is killed unless the job completes, also on cancellation."""
        response = b""
        try:
            source, sink = await self._until_ready()
            async with asyncio.timeout(limit_s):
                response = await _exchange(job, source, sink)
        except TimeoutError:  # a subclass of OSError
            raise
        except (OSError, EOFError) as error:  # broken pipe or early end of file
            raise _ProcessDied from error
        finally:
            if not response:
                self._kill()
        if response[:1] == b"-":
            raise read_refusal(response[1:])
        return response[1:]

    async def start(self) -> None:
        """Start the process unless it is in use."""
        if not self._exclusive.locked():
            async with self._exclusive:
                await self._ensure_running()

    async def close(self) -> None:
        """Kill the process and wait for its exit. A later request starts a new one."""
        self._kill()
        await asyncio.gather(*self._exiting)

    async def _until_ready(self) -> tuple[StreamReader, StreamWriter]:
        """Start the process if necessary, and return the pipes from and to it once it is ready for jobs."""
        process = await self._ensure_running()
        assert process.stdin is not None
        assert process.stdout is not None
        if not self._is_ready:
            try:
                async with asyncio.timeout(_START_S):
                    await process.stdout.readexactly(LENGTH_BYTES)
            except TimeoutError:
                raise CompilerFailed(f"the constraint process did not start within {_START_S:g} s") from None
            self._is_ready = True
        return process.stdout, process.stdin

    async def _ensure_running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._kill()
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, cwd=_ROOT)
        return self._process

    def _kill(self) -> None:
        process, self._process, self._is_ready, self.loaded_vocabulary = self._process, None, False, ""
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        waiting = asyncio.create_task(process.wait())
        self._exiting.add(waiting)
        waiting.add_done_callback(self._exiting.discard)


async def _exchange(job: bytes, source: StreamReader, sink: StreamWriter) -> bytes:
    sink.write(frame(job))
    await sink.drain()
    length = int.from_bytes(await source.readexactly(LENGTH_BYTES), "big")
    return await source.readexactly(length)


class CompilerPool:
    """The compiler process and the validator process. Close it after use."""

    def __init__(self, *, compile_s: float = COMPILE_S, validate_s: float = VALIDATE_S) -> None:
        self._compile_s, self._validate_s = compile_s, validate_s
        self._load_s = max(compile_s, _START_S)
        self._compiler = JobProcess("compiler_process", longest_s=self._load_s)
        self._validator = JobProcess("validator_process", longest_s=validate_s)

    async def compile(
        self, constraint: Constraint, vocabulary: VocabularyBytes, prefixes: TokenPrefixes
    ) -> CompiledConstraint:
        """Compile a constraint for a vocabulary. Raises InvalidRequest and UnsupportedSchema as the compiler does, the
        latter also on a timeout; OverCapacity if the compiler is busy; CompilerFailed if the process crashed twice."""
        await self._validator.start()  # needed once the answer is complete
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
        raise CompilerFailed("the constraint compiler process crashed")

    async def validate(self, constraint: Constraint, text: str) -> str | None:
        """The violation of a whole answer; None: valid. Raises as `compile` does."""
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
        raise CompilerFailed("the validator process crashed")

    async def close(self) -> None:
        """Kill both processes."""
        await asyncio.gather(self._compiler.close(), self._validator.close())

    async def _load_vocabulary(self, vocabulary: VocabularyBytes) -> None:
        """Send the vocabulary to the compiler unless it is loaded."""
        if self._compiler.loaded_vocabulary == vocabulary.digest:
            return
        try:
            await self._compiler.request(vocabulary_job(vocabulary), self._load_s)
        except TimeoutError:
            raise CompilerFailed("the constraint compiler did not load the vocabulary in time") from None
        self._compiler.loaded_vocabulary = vocabulary.digest


def _too_long(constraint: Constraint, task: str, limit_s: float) -> UnsupportedSchema:
    return UnsupportedSchema(f"takes longer than {limit_s:g} s to {task}", keyword=constraint.kind, pointer="")

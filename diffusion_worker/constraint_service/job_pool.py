"""A pool of job processes of one kind, shared fairly between API keys.

Compiling in a thread would stall the engine, and a hostile regular expression could hold the interpreter lock
indefinitely. A process is started on first use and killed when a job exceeds its limit or nobody waits for it any
longer; the next job starts a new one. Belongs to one event loop.

A job that takes longer than a quick one may occupy all processes but one. If they are occupied, it is ended, and starts
again when one of them is free: so small jobs wait for at most the time of a quick job, whatever others send.
"""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusion_worker.constraint_service.fair_queue import FairQueue, Job
from diffusion_worker.constraint_service.pipe_framing import LENGTH_BYTES, TOO_LONG, job_frame, read_refusal
from diffusion_worker.errors import CompilerFailed, OverCapacity, Refused

START_S: Final = 30.0  # to start, or to load a vocabulary, on a busy machine
_GRACE_S: Final = 5.0  # after which an orphaned process ends itself
_ATTEMPTS: Final = 2  # a process may have died between two jobs
_OUTAGE: Final = 20  # times the limit of a job's processor time: a machine on which that takes longer is too busy
_ROOT: Final = Path(__file__).parents[2]


class ProcessDied(Exception):  # noqa: N818 - says what happened
    """The process has died."""


class TooLong(Exception):  # noqa: N818 - says what happened
    """The job has used more processor time than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Of one kind of job, in seconds."""

    quick_s: float  # a job that takes longer is a long one
    limit_s: float  # of processor time, after which a job is refused
    wait_s: float  # for a process; all waits of a job together

    @property
    def outage_s(self) -> float:
        """Elapsed time after which the machine is too busy for the job; this does not blame the job."""
        return _OUTAGE * self.limit_s


class JobProcess:
    """A process that does one job at a time."""

    def __init__(self, module: str, *, longest_s: float) -> None:
        self._command = (
            sys.executable,
            "-m",
            f"diffusion_worker.constraint_service.{module}",
            str(longest_s + _GRACE_S),
        )
        self._process: Process | None = None
        self._exiting: set[asyncio.Task[int]] = set()
        self.loaded_vocabulary = ""  # digest
        self._is_ready = False

    async def request(
        self, job: bytes, limit_s: float, prolong: Callable[[], float] = lambda: 0.0, *, cpu_s: float = 0.0
    ) -> bytes:
        """Send a job and return the response. Raises InvalidRequest or UnsupportedSchema as the job does, TooLong after
        `cpu_s` of processor time (0: no limit), TimeoutError after `limit_s` and the seconds that `prolong` adds then.
        The process is killed unless the job completes, also on cancellation."""
        response, loop = b"", asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                timer = loop.call_later(limit_s, lambda: limit.reschedule(loop.time() + prolong()))
                try:
                    response = await self._send(job_frame(job, cpu_s))
                finally:
                    timer.cancel()
        except TimeoutError:  # a subclass of OSError
            raise
        except (OSError, EOFError) as error:  # broken pipe or early end of file
            is_too_long = self._process is not None and await self._process.wait() == TOO_LONG
            raise (TooLong if is_too_long else ProcessDied) from error
        finally:
            if not response:
                self._kill()
        if response[:1] == b"-":
            raise read_refusal(response[1:])
        return response[1:]

    async def start(self) -> None:
        """Start the process if it is not running, and wait until it can take a job: the time does not count as the
        job's. Raises Refused if it takes too long."""
        await self.ensure_running()
        if not self._is_ready:
            try:
                await self.request(b"", START_S)
            except TimeoutError:
                raise Refused("the process of the constraint did not start in time", retry_after_s=START_S) from None
            self._is_ready = True

    async def close(self) -> None:
        """Kill the process and wait for its exit. A later request starts a new one."""
        self._kill()
        await asyncio.gather(*self._exiting)

    async def _send(self, request: bytes) -> bytes:
        process = await self.ensure_running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
        return await process.stdout.readexactly(length)

    async def ensure_running(self) -> Process:
        """The process, started if need be."""
        if self._process is None or self._process.returncode is not None:
            self._kill()
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, cwd=_ROOT)
        return self._process

    def _kill(self) -> None:
        process, self._process, self.loaded_vocabulary, self._is_ready = self._process, None, "", False
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        waiting = asyncio.create_task(process.wait())
        self._exiting.add(waiting)
        waiting.add_done_callback(self._exiting.discard)


class JobPool:
    """Processes that do jobs of one kind. Close it after use."""

    def __init__(self, module: str, times: Times, *, processes: int = 2) -> None:
        self.times = times
        longest_s = max(START_S, times.outage_s)
        self._processes = tuple(JobProcess(module, longest_s=longest_s) for _ in range(processes))
        self._idle = list(self._processes)  # the last one is used first, because it is warm
        self._queue = FairQueue()
        self._grants: dict[Job, asyncio.Future[JobProcess]] = {}
        self._long = set[Job]()  # that are running

    async def run(
        self,
        content: bytes,
        owner: str = "",
        prepare: Callable[[JobProcess], Awaitable[None]] | None = None,
    ) -> bytes:
        """Do a job for an owner. Raises InvalidRequest or UnsupportedSchema as the job does, TooLong if it needs more
        than the limit, Refused if the machine is too busy for it, OverCapacity if no process was free in time,
        CompilerFailed if the process crashed twice."""
        loop, deaths = asyncio.get_running_loop(), 0
        job = Job(owner=owner, size=len(content), arrived_s=loop.time())
        waits_until_s = job.arrived_s + self.times.wait_s
        while deaths < _ATTEMPTS:
            process, started_s = await self._acquire(job, waits_until_s), loop.time()
            try:
                await process.start()
                if prepare is not None:
                    await prepare(process)
                limit_s = self.times.outage_s if job.is_long else self.times.quick_s
                return await process.request(content, limit_s, lambda: self._prolong(job), cpu_s=self.times.limit_s)
            except ProcessDied:
                deaths += 1
            except TimeoutError:
                if job.is_long:
                    raise Refused(
                        "the machine is too busy for the constraint", retry_after_s=self.times.wait_s
                    ) from None
                job.is_long = True  # wait again
            finally:
                self._release(job, process, loop.time() - started_s)
        raise CompilerFailed("the process of the constraint crashed")

    async def start(self) -> None:
        """Start a process unless all are in use."""
        if self._idle:
            process = self._idle.pop()
            try:
                await process.ensure_running()
            finally:
                self._idle.append(process)
                self._dispatch()

    async def close(self) -> None:
        """Kill all processes."""
        await asyncio.gather(*(process.close() for process in self._processes))

    def _prolong(self, job: Job) -> float:
        """The seconds that a job may take beyond those of a quick one."""
        if job.is_long or not self._may_run_long:
            return 0.0
        job.is_long = True
        self._long.add(job)
        return max(0.0, self.times.outage_s - self.times.quick_s)

    @property
    def _may_run_long(self) -> bool:
        return len(self._long) < max(1, len(self._processes) - 1)

    async def _acquire(self, job: Job, until_s: float) -> JobProcess:
        """A process for this job alone, in its turn. Raises OverCapacity."""
        granted: asyncio.Future[JobProcess] = asyncio.get_running_loop().create_future()
        self._grants[job] = granted
        self._queue.add(job)
        self._dispatch()
        try:
            async with asyncio.timeout_at(until_s):
                return await granted
        except BaseException as error:  # also a cancellation: the process must not be lost
            if self._grants.pop(job, None) is not None:
                self._queue.remove(job)
            elif not granted.cancelled():  # granted in the same moment
                self._release(job, granted.result(), 0.0)
            if isinstance(error, TimeoutError):
                raise OverCapacity("the constraint compiler is busy", retry_after_s=self.times.wait_s) from None
            raise

    def _dispatch(self) -> None:
        """Give idle processes to waiting jobs."""
        while self._idle and (job := self._queue.take(with_long=self._may_run_long)) is not None:
            granted = self._grants.pop(job)
            if granted.done():  # cancelled in this turn of the loop: its waiter has not run yet
                self._queue.ended(job, 0.0)
                continue
            if job.is_long:
                self._long.add(job)
            granted.set_result(self._idle.pop())

    def _release(self, job: Job, process: JobProcess, used_s: float) -> None:
        self._long.discard(job)
        self._queue.ended(job, used_s)
        self._idle.append(process)
        self._dispatch()

"""The compiler pool: typed errors, time limits, and no leftover processes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_worker.constraint_service.compiler_pool import CompilerPool
from diffusion_worker.constraint_service.fair_queue import Job
from diffusion_worker.constraint_service.job_pool import JobPool, Times, TooLong
from diffusion_worker.constraint_service.validator_process import validation_job
from diffusion_worker.constraints import compiled
from diffusion_worker.constraints.compiled import NO_PREFIX, compile_for_vocabulary
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.token_trie import token_trie_of
from diffusion_worker.constraints.tokens.vocabulary_bytes import (
    VocabularyBytes,
    from_bytes,
    make_vocabulary_bytes,
    to_bytes,
)
from diffusion_worker.errors import CompilerFailed, InvalidRequest, OverCapacity, Refused, UnsupportedSchema

pytestmark = pytest.mark.anyio

YES = Constraint(kind="choice", value=["yes", "no"])
POINT = Constraint(
    kind="json_schema", value={"type": "object", "properties": {"x": {"type": "integer", "multipleOf": 0.5}}}
)
SLOW_TO_CHECK = Constraint(kind="json_schema", value={"type": "array", "items": {"pattern": "^(a+)+$"}})
PATIENCE_S = 60.0
PATIENT = Times(quick_s=PATIENCE_S, limit_s=PATIENCE_S, wait_s=PATIENCE_S)


def vocabulary(*more: bytes) -> VocabularyBytes:
    return make_vocabulary_bytes((b"", b"", *(bytes([byte]) for byte in range(256)), *more), (1,), 0)


def pids_of(compiler_pool: CompilerPool) -> list[int]:
    processes = [each._process for each in compiler_pool._compilers._processes]
    return [process.pid for process in processes if process is not None]


def pid_of(compiler_pool: CompilerPool) -> int:
    """Of the only compiler that was needed so far."""
    [pid] = pids_of(compiler_pool)
    return pid


def pid_of_validator(compiler_pool: CompilerPool) -> int:
    """Of the validator that takes the next job."""
    process = compiler_pool._validators._idle[-1]._process
    assert process is not None
    return process.pid


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_vocabulary_bytes_round_trip() -> None:
    """Empty, long and strange ones."""
    here = make_vocabulary_bytes([b"", b"\n\x00", b"", b"yes" * 50, b"\xff"], (0, 2), 2)
    assert from_bytes(to_bytes(here)) == here


async def test_the_process_compiles_as_this_one_does() -> None:
    """For one vocabulary and for the next."""
    compiler_pool = CompilerPool()
    try:
        for vocabulary_bytes in (vocabulary(), vocabulary(b"yes")):
            found = await compiler_pool.compile(POINT, vocabulary_bytes, ((), (0,)))
            here = compile_for_vocabulary(POINT, token_trie_of(vocabulary_bytes), ((), (0,)))
            assert compiled.to_bytes(found) == compiled.to_bytes(here)
        pid = pid_of(compiler_pool)
        await compiler_pool.compile(YES, vocabulary(b"yes"), NO_PREFIX)
        assert pid_of(compiler_pool) == pid
    finally:
        await compiler_pool.close()
    assert not is_running(pid)


async def test_refusals_round_trip() -> None:
    """The error has keyword, pointer and message; the process continues."""
    compiler_pool = CompilerPool()
    try:
        with pytest.raises(UnsupportedSchema) as caught:
            await compiler_pool.compile(
                Constraint(kind="json_schema", value={"items": {"$ref": "x"}}), vocabulary(), NO_PREFIX
            )
        assert (caught.value.keyword, caught.value.pointer) == ("$ref", "/items/$ref")
        assert caught.value.message.count("/items/$ref") == 1
        with pytest.raises(InvalidRequest, match="not a valid schema"):
            await compiler_pool.compile(Constraint(kind="json_schema", value={"type": 1}), vocabulary(), NO_PREFIX)
        with pytest.raises(UnsupportedSchema, match="spells a valid answer"):
            await compiler_pool.compile(YES, make_vocabulary_bytes([b"", b"x"], (0,), 0), NO_PREFIX)
        assert (await compiler_pool.compile(YES, vocabulary(), NO_PREFIX)).stats.states > 0
    finally:
        await compiler_pool.close()


async def test_a_constraint_over_the_time_limit_is_refused_and_its_process_killed() -> None:
    """The time bounds every constraint, and the next one gets a fresh process."""
    compiler_pool = CompilerPool()
    try:
        await compiler_pool.compile(YES, vocabulary(), NO_PREFIX)
        pid, compiler_pool._compilers.times = pid_of(compiler_pool), replace(PATIENT, limit_s=0.0001)
        with pytest.raises(UnsupportedSchema, match=r"longer than 0\.0001 s of processor time to compile") as caught:
            await compiler_pool.compile(POINT, vocabulary(), NO_PREFIX)
        assert caught.value.keyword == "json_schema"
        compiler_pool._compilers.times = PATIENT
        assert (await compiler_pool.compile(POINT, vocabulary(), NO_PREFIX)).stats.states > 0
        assert pid_of(compiler_pool) != pid
        assert not is_running(pid)
    finally:
        await compiler_pool.close()


async def test_elapsed_time_without_processor_time_does_not_blame_the_constraint() -> None:
    """On a machine so busy that the process gets no time: 503, and the next request tries again."""
    compiler_pool = CompilerPool(validating=Times(quick_s=0.02, limit_s=0.02, wait_s=PATIENCE_S))
    try:
        compiler_pool._validators.times = PATIENT
        assert await compiler_pool.validate(YES, "yes") is None
        compiler_pool._validators.times = Times(quick_s=0.02, limit_s=0.02, wait_s=PATIENCE_S)
        os.kill(pid_of_validator(compiler_pool), signal.SIGSTOP)
        with pytest.raises(Refused, match="too busy") as refused:
            await compiler_pool.validate(YES, "yes")
        assert (refused.value.status, refused.value.retryable, refused.value.retry_after_s) == (503, True, PATIENCE_S)
        compiler_pool._validators.times = PATIENT
        assert await compiler_pool.validate(YES, "yes") is None
    finally:
        await compiler_pool.close()


async def test_a_job_with_little_processor_time_may_take_long() -> None:
    """A process that gets a fraction of a processor completes jobs that take longer than the limit."""
    compiler_pool = CompilerPool(validating=PATIENT)
    try:
        assert await compiler_pool.validate(YES, "yes") is None
        compiler_pool._validators.times = Times(quick_s=PATIENCE_S, limit_s=0.2, wait_s=PATIENCE_S)
        pid = pid_of_validator(compiler_pool)
        os.kill(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.4, os.kill, pid, signal.SIGCONT)
        assert await compiler_pool.validate(YES, "maybe") == "not one of the choices"
    finally:
        await compiler_pool.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is too busy to give a job its processor time."""
    monkeypatch.setattr("diffusion_worker.constraint_service.job_pool._OUTAGE", 1000)


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
async def test_a_validation_over_the_time_limit_blocks_nothing_else() -> None:
    """The event loop keeps running during a backtracking expression, and later answers are validated."""
    compiler_pool = CompilerPool(validating=Times(quick_s=0.5, limit_s=1.0, wait_s=PATIENCE_S))
    with contextlib.suppress(UnsupportedSchema):  # however long the process takes to start
        assert await compiler_pool.validate(SLOW_TO_CHECK, '["aaa"]') is None
    try:
        hanging = asyncio.create_task(compiler_pool.validate(SLOW_TO_CHECK, f'["{"a" * 60}!"]'))
        ticks = 0
        while not hanging.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(UnsupportedSchema, match=r"longer than 1 s of processor time to check"):
            await hanging
        assert ticks > 2  # one, had the loop waited
        compiler_pool._validators.times = PATIENT
        assert await compiler_pool.validate(SLOW_TO_CHECK, '["aaa"]') is None
        assert "'b' does not match" in str(await compiler_pool.validate(SLOW_TO_CHECK, '["b"]'))
        assert await compiler_pool.validate(YES, "maybe") == "not one of the choices"
    finally:
        await compiler_pool.close()


async def test_the_start_of_a_process_does_not_count_as_time_of_its_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process starts only after a second; validation takes a millisecond."""
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\nsleep 1.2\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr("diffusion_worker.constraint_service.job_pool.sys.executable", str(slow))
    compiler_pool = CompilerPool(validating=replace(PATIENT, quick_s=1.0, limit_s=1.0))
    try:
        assert await compiler_pool.validate(YES, "maybe") == "not one of the choices"
    finally:
        await compiler_pool.close()


async def test_a_crashed_process_is_replaced() -> None:
    """Between two jobs, without an error."""
    compiler_pool = CompilerPool()
    try:
        await compiler_pool.compile(YES, vocabulary(), NO_PREFIX)
        os.kill(pid_of(compiler_pool), signal.SIGKILL)
        assert (await compiler_pool.compile(POINT, vocabulary(), NO_PREFIX)).stats.states > 0
    finally:
        await compiler_pool.close()


async def test_a_constraint_that_crashes_its_process_twice_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a server error, not a client error."""
    monkeypatch.setattr("diffusion_worker.constraint_service.job_pool.sys.executable", "/bin/true")
    compiler_pool = CompilerPool()
    with pytest.raises(CompilerFailed):
        await compiler_pool.compile(YES, vocabulary(), NO_PREFIX)
    with pytest.raises(CompilerFailed):
        await compiler_pool.validate(YES, "yes")
    await compiler_pool.close()


async def test_cancelling_kills_the_job() -> None:
    compiler_pool = CompilerPool(compiling=PATIENT)
    try:
        await compiler_pool.compile(YES, vocabulary(), NO_PREFIX)
        pid = pid_of(compiler_pool)
        at_work = asyncio.create_task(compiler_pool.compile(POINT, vocabulary(), NO_PREFIX))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        at_work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await at_work
        assert len(compiler_pool._compilers._idle) == 2
    finally:
        await compiler_pool.close()
    assert not is_running(pid)


@contextlib.asynccontextmanager
async def validators(**times: float) -> AsyncIterator[JobPool]:
    """Two warm validator processes."""
    pool = JobPool("validator_process", PATIENT)
    try:
        await asyncio.gather(quick(pool), quick(pool))
        pool.times = replace(PATIENT, **times)
        yield pool
    finally:
        await pool.close()


async def quick(pool: JobPool, owner: str = "") -> bytes:
    return await pool.run(validation_job(YES, "yes"), owner)


def bomb(length: int = 60) -> bytes:
    """It takes longer than the age of the universe, and is short."""
    return validation_job(SLOW_TO_CHECK, json.dumps(["a" * length + "!"]))


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
async def test_long_jobs_leave_a_process_to_quick_ones_and_end_in_time() -> None:
    """Of another key and of the same one."""
    async with validators(quick_s=0.05, limit_s=0.25) as pool:
        bombs = [asyncio.create_task(pool.run(bomb(60 + at), "bomber")) for at in range(4)]
        await asyncio.sleep(0)
        for owner in ("bomber", "innocent"):
            assert await quick(pool, owner) == b"null"
        assert not all(each.done() for each in bombs)
        ends = await asyncio.gather(*bombs, return_exceptions=True)
        assert {type(end) for end in ends} == {TooLong}
        assert len(pool._idle) == 2
        assert not pool._long
        assert await quick(pool) == b"null"


async def test_a_job_that_waits_too_long_is_refused_and_leaves_nothing() -> None:
    async with validators(quick_s=PATIENCE_S, wait_s=0.05) as pool:
        bombs = [asyncio.create_task(pool.run(bomb(60 + at))) for at in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverCapacity):
            await quick(pool)
        for each in bombs:
            each.cancel()
        await asyncio.gather(*bombs, return_exceptions=True)
        assert (len(pool._idle), len(pool._queue), pool._grants) == (2, 0, {})
        assert await quick(pool) == b"null"


async def test_a_job_that_is_cancelled_as_a_process_becomes_free_takes_no_process_with_it() -> None:
    pool = JobPool("validator_process", PATIENT, processes=1)
    try:
        running, waiting, next_one = (Job(owner=name, size=1, arrived_s=0.0) for name in "abc")
        process = await pool._acquire(running, asyncio.get_running_loop().time() + PATIENCE_S)
        waits = asyncio.create_task(pool._acquire(waiting, asyncio.get_running_loop().time() + PATIENCE_S))
        await asyncio.sleep(0)
        waits.cancel()
        pool._release(running, process, 0.0)  # in the same turn of the loop
        await asyncio.gather(waits, return_exceptions=True)
        assert await pool._acquire(next_one, asyncio.get_running_loop().time() + PATIENCE_S) is process
        pool._release(next_one, process, 0.0)
    finally:
        await pool.close()

"""Compiling and judging in processes of their own: typed answers, bounded time, and nothing that stays behind."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from diffusion_worker.constraints import ready
from diffusion_worker.constraints.constraint import Constraint
from diffusion_worker.constraints.lexicon import Lexicon, from_bytes, read_lexicon, to_bytes
from diffusion_worker.constraints.ready import NO_HEADER, make_ready
from diffusion_worker.constraints.vocabulary import vocabulary_of
from diffusion_worker.errors import BadAsk, CompilerFailed, OverCapacity, UnsupportedSchema
from diffusion_worker.workshop import Workshop

pytestmark = pytest.mark.anyio

YES = Constraint(kind="choice", value=["yes", "no"])
POINT = Constraint(
    kind="json_schema", value={"type": "object", "properties": {"x": {"type": "integer", "multipleOf": 0.5}}}
)
SLOW_TO_CHECK = Constraint(kind="json_schema", value={"type": "array", "items": {"pattern": "^(a+)+$"}})
PATIENCE_S = 60.0


def words(*more: bytes) -> Lexicon:
    return read_lexicon((b"", b"", *(bytes([byte]) for byte in range(256)), *more), (1,), 0)


def pid_of(workshop: Workshop, name: str = "_compiler") -> int:
    process = getattr(workshop, name)._process
    assert process is not None
    return int(process.pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_words_cross_the_border_whole() -> None:
    """Empty, long and strange ones."""
    here = read_lexicon([b"", b"\n\x00", b"", b"yes" * 50, b"\xff"], (0, 2), 2)
    assert from_bytes(to_bytes(here)) == here


async def test_the_process_makes_what_this_one_would() -> None:
    """For one vocabulary and for the next."""
    workshop = Workshop()
    try:
        for lexicon in (words(), words(b"yes")):
            found = await workshop.ready(POINT, lexicon, ((), (0,)))
            here = make_ready(POINT, vocabulary_of(lexicon), ((), (0,)))
            assert ready.to_bytes(found) == ready.to_bytes(here)
        pid = pid_of(workshop)
        await workshop.ready(YES, words(b"yes"), NO_HEADER)
        assert pid_of(workshop) == pid
    finally:
        await workshop.close()
    assert not is_running(pid)


async def test_refusals_cross_the_border_whole() -> None:
    """With keyword, pointer and message; and the process lives on."""
    workshop = Workshop()
    try:
        with pytest.raises(UnsupportedSchema) as caught:
            await workshop.ready(Constraint(kind="json_schema", value={"items": {"$ref": "x"}}), words(), NO_HEADER)
        assert (caught.value.keyword, caught.value.pointer) == ("$ref", "/items/$ref")
        assert caught.value.message.count("/items/$ref") == 1
        with pytest.raises(BadAsk, match="not a valid schema"):
            await workshop.ready(Constraint(kind="json_schema", value={"type": 1}), words(), NO_HEADER)
        with pytest.raises(UnsupportedSchema, match="spell no answer"):
            await workshop.ready(YES, read_lexicon([b"", b"x"], (0,), 0), NO_HEADER)
        assert (await workshop.ready(YES, words(), NO_HEADER)).stats.states > 0
    finally:
        await workshop.close()


async def test_a_constraint_that_takes_too_long_is_refused_and_its_process_ended() -> None:
    """The time bounds every constraint, and the next one gets a fresh process."""
    workshop = Workshop()
    try:
        await workshop.ready(YES, words(), NO_HEADER)
        pid, workshop._compile_s = pid_of(workshop), 0.0001
        with pytest.raises(UnsupportedSchema, match=r"longer than 0\.0001 s to compile") as caught:
            await workshop.ready(POINT, words(), NO_HEADER)
        assert caught.value.keyword == "json_schema"
        workshop._compile_s = PATIENCE_S
        assert (await workshop.ready(POINT, words(), NO_HEADER)).stats.states > 0
        assert pid_of(workshop) != pid
        assert not is_running(pid)
    finally:
        await workshop.close()


async def test_an_answer_that_cannot_be_judged_in_time_holds_up_nobody() -> None:
    """A back-tracking expression would take years; the loop goes on meanwhile, and other answers are judged after."""
    workshop = Workshop(judge_s=1.0)
    with contextlib.suppress(UnsupportedSchema):  # however long the process takes to start
        assert await workshop.violation(SLOW_TO_CHECK, '["aaa"]') is None
    try:
        hanging = asyncio.create_task(workshop.violation(SLOW_TO_CHECK, f'["{"a" * 60}!"]'))
        ticks = 0
        while not hanging.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(UnsupportedSchema, match=r"longer than 1 s to check"):
            await hanging
        assert ticks > 2  # one, had the loop waited
        workshop._judge_s = PATIENCE_S
        assert await workshop.violation(SLOW_TO_CHECK, '["aaa"]') is None
        assert "'b' does not match" in str(await workshop.violation(SLOW_TO_CHECK, '["b"]'))
        assert await workshop.violation(YES, "maybe") == "not one of the choices"
    finally:
        await workshop.close()


async def test_a_process_that_died_is_replaced() -> None:
    """Between two constraints nobody notices."""
    workshop = Workshop()
    try:
        await workshop.ready(YES, words(), NO_HEADER)
        os.kill(pid_of(workshop), signal.SIGKILL)
        assert (await workshop.ready(POINT, words(), NO_HEADER)).stats.states > 0
    finally:
        await workshop.close()


async def test_a_constraint_that_kills_its_process_twice_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error of ours, not of the client's."""
    monkeypatch.setattr("diffusion_worker.workshop.sys.executable", "/bin/true")
    workshop = Workshop()
    with pytest.raises(CompilerFailed):
        await workshop.ready(YES, words(), NO_HEADER)
    with pytest.raises(CompilerFailed):
        await workshop.violation(YES, "yes")
    await workshop.close()


async def test_who_gives_up_ends_the_work_and_who_waits_for_a_turn_is_told() -> None:
    """Cancelled while at work: the process has ended. Behind others for too long: a status to come back with."""
    workshop = Workshop()
    try:
        await workshop.ready(YES, words(), NO_HEADER)
        pid = pid_of(workshop)
        at_work = asyncio.create_task(workshop._compiler.ask(b"V" + b"x" * 50, PATIENCE_S))  # it would die of that
        async with workshop._compiler.turn(1.0):
            with pytest.raises(OverCapacity):
                async with workshop._compiler.turn(0.01):
                    pass
            at_work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await at_work
        assert workshop._compiler._process is None
    finally:
        await workshop.close()
    assert not is_running(pid)

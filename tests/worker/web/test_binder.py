"""One constraint, many clients: made once, given up only by all, refused again without being tried again."""

import asyncio
from pathlib import Path

import pytest

from diffusion_worker.constraints.constraint import Constraint
from diffusion_worker.constraints.lexicon import Lexicon
from diffusion_worker.constraints.ready import Headers, Ready, make_ready
from diffusion_worker.constraints.store import Store
from diffusion_worker.constraints.vocabulary import vocabulary_of
from diffusion_worker.errors import BadAsk, UnsupportedSchema
from diffusion_worker.records import NetFacts
from diffusion_worker.web.binding import Binder
from diffusion_worker.workshop import Workshop
from tests.worker.serving import toy_net, toy_tokenizer

pytestmark = pytest.mark.anyio

YES = Constraint(kind="choice", value=["yes", "no"], field="structured_outputs.choice")
TOKENIZER = toy_tokenizer()


def facts() -> NetFacts:
    return toy_net().facts


class Slow(Workshop):
    """Works when it is told to, and counts."""

    def __init__(self, refusal: BadAsk | None = None) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.starts = asyncio.Semaphore(0)
        self.begun = self.made = self.given_up = 0
        self._refusal = refusal

    async def ready(self, constraint: Constraint, words: Lexicon, headers: Headers) -> Ready:
        self.begun += 1
        self.starts.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self._refusal:
            raise self._refusal
        self.made += 1
        return make_ready(constraint, vocabulary_of(words), headers)


async def until_waiting(binder: Binder, count: int) -> None:
    async with asyncio.timeout(120):
        while sum(flight.waiting for flight in binder._flights.values()) != count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_many_who_want_the_same_have_it_made_once() -> None:
    """At the same time and afterwards; another constraint is another one."""
    workshop = Slow()
    binder = Binder(workshop=workshop)
    waiting = [asyncio.create_task(binder.bind(YES, TOKENIZER, facts())) for _ in range(20)]
    await until_waiting(binder, 20)
    workshop.go.set()
    found = await asyncio.gather(*waiting)
    later = await binder.bind(YES, TOKENIZER, facts())
    assert {id(bound.automaton) for bound in (*found, later)} == {id(later.automaton)}
    assert (workshop.begun, workshop.made) == (1, 1)
    await binder.bind(Constraint(kind="choice", value=["no"]), TOKENIZER, facts())
    assert workshop.made == 2
    await binder.close()


async def test_the_work_ends_when_the_last_who_waits_gives_up() -> None:
    """Not before; and who comes afterwards begins anew."""
    workshop = Slow()
    binder = Binder(workshop=workshop)
    first, second = (asyncio.create_task(binder.bind(YES, TOKENIZER, facts())) for _ in range(2))
    await workshop.starts.acquire()
    await until_waiting(binder, 2)
    first.cancel()
    await asyncio.wait([first])
    assert workshop.given_up == 0
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.create_task(binder.bind(YES, TOKENIZER, facts()))
    await workshop.starts.acquire()
    assert workshop.given_up == 1
    workshop.go.set()
    await third
    assert workshop.made == 1
    assert not binder._flights
    await binder.close()


async def test_closing_gives_up_what_is_in_the_making() -> None:
    """Who waits is told."""
    workshop = Slow()
    binder = Binder(workshop=workshop)
    waiting = asyncio.create_task(binder.bind(YES, TOKENIZER, facts()))
    await workshop.starts.acquire()
    await binder.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert workshop.given_up == 1


async def test_what_was_refused_is_refused_again_without_a_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a minute: who insists on a schema that takes too long would keep all others waiting."""
    workshop = Slow(UnsupportedSchema("takes too long", keyword="choice", pointer=""))
    workshop.go.set()
    binder = Binder(workshop=workshop)
    for _ in range(3):
        with pytest.raises(UnsupportedSchema) as caught:
            await binder.bind(YES, TOKENIZER, facts())
        assert caught.value.param == "structured_outputs.choice"
    assert workshop.begun == 1
    monkeypatch.setattr("diffusion_worker.web.binding.REFUSED_S", 0.0)
    with pytest.raises(UnsupportedSchema):
        await binder.bind(YES, TOKENIZER, facts())
    assert workshop.begun == 2
    await binder.close()


async def test_an_answer_that_nobody_can_judge_spoils_its_constraint() -> None:
    """The next request with it is refused before a step is spent on it."""
    value = {"type": "array", "items": {"pattern": "^(a+)+$"}}
    slow = Constraint(kind="json_schema", value=value, field="response_format")
    binder = Binder(workshop=Workshop(judge_s=0.3))
    bound = await binder.bind(slow, TOKENIZER, facts())
    with pytest.raises(UnsupportedSchema, match="to check"):
        await bound.judge(f'["{"a" * 60}!"]')
    with pytest.raises(UnsupportedSchema, match="to check") as caught:
        await binder.bind(slow, TOKENIZER, facts())
    assert caught.value.param == "response_format"
    await binder.close()


async def test_a_folder_saves_the_work_of_the_next_process(tmp_path: Path) -> None:
    """And a broken file costs the work again, no more."""
    workshop = Slow()
    workshop.go.set()
    for is_broken, made in ((False, 1), (False, 1), (True, 2)):
        if is_broken:
            _break_files(tmp_path)
        binder = Binder(Store(tmp_path), workshop)
        await binder.bind(YES, TOKENIZER, facts())
        await binder.close()
        assert workshop.made == made


def _break_files(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"broken")

"""The shipped policies in front of the shipped checkpoint: strangers get no answer of the fast lane, its own tasks do.

All policies share one worker, which answers equal requests once.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from aiohttp import web

from diffusion_worker.app import listener_of
from diffusion_worker.models.loader import LoadOptions, load
from tests.gateway.serving import RealGateway, completion, fake_server, real_gateway
from tests.served import served
from tests.worker.serving import serving
from training.gate.measure import MIN_CONFIDENCE
from training.gate.mix import MEASURING
from training.gate.rows import Row, Third
from twolane.process.http.server import build_server

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "twolane-tiny"
POLICIES = ("default", "demo", "offline")
MINIMUM_HEADER = b"x-twolane-min-confidence"
FAST_LANE = ("fast", "careful")
LANES = tuple(f"{name}=" for name in FAST_LANE)
TOGETHER = 8
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"metadata": {"task": "edit"}},
    {"metadata": {"task": "structured"}, "response_format": {"type": "json_object"}},
)
pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Answer:
    """What a client received for a row."""

    row: Row
    status: int
    attempts: str
    target: str
    text: str
    confidence: float | None
    steps: int

    @property
    def is_fast(self) -> bool:
        return self.target in FAST_LANE

    @property
    def is_right(self) -> bool:
        return self.text == self.row.answer


async def _quality(*_: Any) -> web.StreamResponse:
    return web.json_response(completion('{"answer": "of the quality lane"}'))


class AnswersOnce:
    """A worker's application that computes the answer to equal requests once: it follows from the body, which has a
    seed, and from the minimum confidence."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._known: dict[tuple[bytes, bytes], list[Any]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        parts = [await receive()]
        while parts[-1].get("more_body"):
            parts.append(await receive())
        key = (b"".join(part.get("body", b"") for part in parts), dict(scope["headers"]).get(MINIMUM_HEADER, b""))
        if key not in self._known:
            self._known[key] = await self._answer(scope, parts, receive)
        for event in self._known[key]:
            await send(event)

    async def _answer(self, scope: Any, parts: list[Any], receive: Any) -> list[Any]:
        sent: list[Any] = []

        async def again() -> Any:
            return parts.pop(0) if parts else await receive()

        async def record(event: Any) -> None:
            sent.append(event)

        await self._app(scope, again, record)
        return sent


@pytest.fixture(scope="module")
async def lanes() -> AsyncIterator[None]:
    """A worker and a quality server on sockets, whose URLs the environment names."""
    model: Any = load(CHECKPOINT, LoadOptions(threads=1))
    async with serving(model) as inner, fake_server(_quality) as quality:
        server = build_server(AnswersOnce(inner.worker.app), drain_s=60, listener=listener_of(inner.worker))
        async with served(server) as [url]:
            os.environ |= {"WORKER_URL": url, "QUALITY_URL": quality.url}
            try:
                yield
            finally:
                del os.environ["WORKER_URL"], os.environ["QUALITY_URL"]


@pytest.fixture(scope="module", params=POLICIES)
def policy_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def stack(lanes: None, policy_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealGateway]:
    """A gateway before both. SLOs and limits of time and concurrency are out of reach: a busy machine must not change
    where a request goes."""
    text = (ROOT / "policies" / f"{policy_name}.yaml").read_text()
    policy = re.sub(r"(p95|deadline|attempt)_ms: (\d+)", lambda limit: f"{limit[1]}_ms: {10 * int(limit[2])}", text)
    policy = re.sub(r"p95_ms: \d+", "p95_ms: 3000000", policy)
    policy = re.sub(r"max_in_flight: \d+", f"max_in_flight: {TOGETHER}", policy)
    async with real_gateway(tmp_path_factory.mktemp("stack"), policy) as gateway:
        yield gateway


async def answers(gateway: RealGateway, rows: list[Row], forms: Sequence[dict[str, Any]]) -> list[Answer]:
    free = asyncio.Semaphore(TOGETHER)

    async def one(number: int, row: Row) -> Answer:
        message = {"role": "user", "content": row.prompt}
        async with free:
            seed = crc32(row.prompt.encode())  # the same in every list of rows, so that the worker answers it once
            body = {"model": "auto", "seed": seed, "messages": [message], **forms[number % len(forms)]}
            status, headers, got = await gateway.ask(body)
        usage = got.get("usage") or {}
        return Answer(
            row=row,
            status=status,
            attempts=headers.get("x-twolane-attempts", ""),
            target=headers.get("x-twolane-target", ""),
            text=got["choices"][0]["message"]["content"] or "" if status == 200 else "",
            confidence=(usage.get("diffusion") or {}).get("confidence"),
            steps=(usage.get("diffusion") or {}).get("denoising_steps", 0),
        )

    return await asyncio.gather(*(one(number, row) for number, row in enumerate(rows)))


async def test_no_stranger_gets_an_answer_of_the_fast_lane_below_the_gate(stack: RealGateway) -> None:
    """300 foreign prompts: unlabelled, and labelled so that the fast lane is asked. None below the gate, none blank."""
    rows = [row for row in MEASURING.rows(300) if row.third is not Third.TRAINED][::2]
    assert len(rows) == 300
    found = await answers(stack, rows, FORMS)
    asked = [each for each in found if each.attempts.startswith(LANES)]
    assert len(asked) >= 150  # the gate was needed
    fast = [each for each in found if each.is_fast]
    assert [each for each in fast if each.confidence is None or each.confidence < MIN_CONFIDENCE] == []
    assert [each for each in fast if not each.text.strip()] == []
    assert sum(not each.is_right for each in fast) <= 0.05 * len(rows)
    assert {each.status for each in found} == {200}  # the quality lane answers the others


async def test_a_target_that_is_named_serves_no_stranger_either(stack: RealGateway) -> None:
    rows = [row for row in MEASURING.rows(300) if row.third is not Third.TRAINED][::36]
    found = await answers(stack, rows, [{"model": name} for name in FAST_LANE])
    assert {each.status for each in found} <= {200, 502}
    assert sum(each.status == 502 for each in found) >= 0.8 * len(rows)
    served = [each for each in found if each.status == 200]
    assert [each for each in served if (each.confidence or 0) < MIN_CONFIDENCE or not each.text.strip()] == []


@pytest.fixture(scope="module")
async def own(stack: RealGateway, policy_name: str) -> list[Answer]:
    """Answers to 300 unlabelled requests of the checkpoint's own tasks that the policy has a route for. Puzzles are
    reasoning, which only the demo sends to the fast lane."""
    families = 5 if policy_name == "demo" else 4
    rows = [row for row in MEASURING.rows(300 // families * 5) if row.third is Third.TRAINED]
    return await answers(stack, [row for row in rows if families == 5 or row.family != "Sudoku 4x4"], ({},))


async def test_the_gate_keeps_the_answers_of_its_own_tasks(own: list[Answer]) -> None:
    """Of the requests that reach the fast lane, whatever the classifier sends there."""
    reached = [each for each in own if each.attempts.startswith(LANES)]
    assert len(reached) >= 150
    assert sum(each.is_fast and each.is_right for each in reached) >= 0.9 * len(reached)
    served = [each for each in reached if each.is_fast]
    assert sum(each.is_right for each in served) >= 0.95 * len(served)


async def test_unlabelled_requests_of_its_own_tasks_are_answered_by_the_fast_lane(own: list[Answer]) -> None:
    assert sum(each.is_fast and each.is_right for each in own) >= 0.85 * len(own)

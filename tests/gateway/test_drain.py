"""The end of a drain: every request in progress gets a response, and no stream is cut."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.attempts.response import GatewayResponse
from gateway.enums import Outcome
from gateway.upstreams.scripted import says
from gateway.web.chat import GenerationApis
from gateway.web.error_boundary import ErrorBoundary
from tests.gateway.serving import ask, one_lane, until_closing
from tests.gateway.web.asgi_client import AsgiClient
from twolane.process.running_requests import RunningRequests

ROOT = Path(__file__).parents[2]
CHAT = ask(stream=True)


def drained(play: Any, body: Any, *, after_s: float, **given: Any) -> Any:
    """Send a request, end the drain after a while, and return what the client received, with the scene."""

    async def story(scene: Any) -> Any:
        running = RunningRequests()
        chat = GenerationApis(scene.pipeline, scene.clock, heartbeat_s=15)
        task = asyncio.create_task(AsgiClient(ErrorBoundary(chat, running)).post(body))
        await asyncio.sleep(after_s)
        scene.pipeline.stop()
        running.end()
        return await task, scene

    return play(story, **given)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_without_an_answer_yet_gets_503_and_may_be_tried_again(play: Any, stream: bool) -> None:
    received, scene = drained(play, ask(stream=stream), after_s=5, fast=says("late", before_s=60))
    assert (received.status, orjson.loads(received.body)["error"]["code"]) == (503, "draining")
    assert orjson.loads(received.body)["error"].keys() == {"message", "type", "param", "code"}
    assert (received.header["retry-after"], received.header["x-should-retry"]) == ("1", "true")
    assert received.header["x-request-id"] == scene.decision.query_id
    assert scene.decision.outcome is Outcome.ERROR  # the client did not leave
    assert scene.targets["fast"].left == 1


@pytest.mark.parametrize("after_s", [25, 35], ids=["after a heartbeat", "in the middle of the answer"])
def test_a_stream_that_has_begun_ends_with_an_error_event(play: Any, after_s: float) -> None:
    lines = says("a", "b", before_s=20, between_s=10)
    received, scene = drained(play, CHAT, after_s=after_s, fast=lines)
    assert received.status == 200
    event, data, *_ = received.parts[-1][1].split(b"\n")
    assert (event, orjson.loads(data[6:])["error"]["code"]) == (b"event: error", "draining")
    assert received.is_complete
    assert scene.decision.outcome is Outcome.ERROR


def test_a_request_that_is_complete_is_not_disturbed(play: Any) -> None:
    received, scene = drained(play, CHAT, after_s=30, fast=says("a", "b"))
    assert received.body.endswith(b"data: [DONE]\n\n")
    assert scene.decision.outcome is Outcome.OK


def test_a_request_that_arrives_after_the_end_gets_503_and_reaches_no_target(play: Any) -> None:
    async def story(scene: Any) -> Any:
        running = RunningRequests()
        chat = GenerationApis(scene.pipeline, scene.clock, heartbeat_s=15)
        running.end()
        return await AsgiClient(ErrorBoundary(chat, running)).post(CHAT), scene

    received, scene = play(story, fast=says("no"))
    assert received.status == 503
    assert received.header["x-request-id"].startswith("req_")
    assert scene.targets["fast"].calls == []


def test_a_cancellation_from_elsewhere_passes(play: Any) -> None:
    async def story(scene: Any) -> Any:
        chat = GenerationApis(scene.pipeline, scene.clock, heartbeat_s=15)
        task = asyncio.create_task(AsgiClient(ErrorBoundary(chat, RunningRequests())).post(CHAT))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    assert play(story, fast=says("late", before_s=60))


def test_a_defect_in_the_middle_of_a_stream_ends_it_with_an_error_event(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: Any) -> Any:
        raise RuntimeError("a bug")

    async def story(scene: Any) -> Any:
        chat = GenerationApis(scene.pipeline, scene.clock, heartbeat_s=15)
        task = asyncio.create_task(AsgiClient(ErrorBoundary(chat, RunningRequests())).post(CHAT))
        await asyncio.sleep(25)
        monkeypatch.setattr(GatewayResponse, "_sent", defect)
        return await task

    received = play(story, fast=says("a", "b", before_s=20, between_s=10))
    assert orjson.loads(received.body.split(b"data: ")[-1])["error"]["code"] == "internal_error"
    assert b"a bug" not in received.body


# A real process: signals, the server's own shutdown, and bodies that never end


class Process:
    """`twolane serve` on free ports."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process, self.url = process, url
        self.has_begun = asyncio.Event()  # a response

    async def post(self, http: aiohttp.ClientSession, body: Any, **more: Any) -> tuple[int, dict[str, str], bytes]:
        async with http.post(f"{self.url}/v1/chat/completions", data=body, **more) as response:
            self.has_begun.set()
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, headers, await response.read()


async def started(folder: Path, policy: str, *flags: str) -> Process:
    (folder / "policy.yaml").write_text(policy)
    line = (sys.executable, "-m", "gateway", "serve", "--policy", str(folder / "policy.yaml"), "--port", "0")
    process = await asyncio.create_subprocess_exec(
        *line, "--admin-port", "0", *flags, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("TWOLANE_")},
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(rb"http://[0-9.:]+", await process.stdout.readline())
    assert found is not None
    return Process(process, found[0].decode())


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("drain_s", "signals"),
    [("0.3", [signal.SIGTERM]), ("300", [signal.SIGINT, signal.SIGINT])],
    ids=["at the end of the drain period", "at a second ctrl-C"],
)
async def test_a_process_that_is_told_to_end_answers_everybody(
    tmp_path: Path, fake: Any, wire: Any, drain_s: str, signals: list[signal.Signals]
) -> None:
    hanging = asyncio.Semaphore(0)

    async def answer(request: Any, body: Any) -> Any:
        hanging.release()
        if body.get("stream") and body["max_tokens"] == 1:
            stream = await wire.start_stream(request)
            await stream.write(wire.chunk("half"))
        await asyncio.sleep(300)

    async def endless() -> AsyncIterator[bytes]:
        yield b'{"model": '
        hanging.release()
        await asyncio.sleep(300)

    async with fake(answer) as server, aiohttp.ClientSession() as http:
        gateway = await started(tmp_path, one_lane(server.url), "--drain-s", drain_s)
        bodies = [ask(max_tokens=2), ask(stream=True, max_tokens=2), ask(stream=True, max_tokens=1)]
        asked = [asyncio.create_task(gateway.post(http, orjson.dumps(body))) for body in bodies]
        asked.append(asyncio.create_task(gateway.post(http, endless(), expect100=True)))  # sent once the head was read
        async with asyncio.timeout(120):
            for _ in asked:
                await hanging.acquire()
            await gateway.has_begun.wait()
            for number in signals:
                gateway.process.send_signal(number)
                await until_closing(gateway.url)  # the second signal must come after the first
            told = await asyncio.gather(*asked)
            assert await gateway.process.wait() == 0
    for status, headers, body in (told[0], told[1], told[3]):
        assert (status, headers["retry-after"]) == (503, "1")
        assert orjson.loads(body)["error"]["code"] == "draining"
    status, _, body = told[2]
    assert status == 200
    assert body.startswith(wire.chunk("half") + b"event: error\ndata: ")
    assert orjson.loads(body.split(b"data: ")[-1])["error"]["code"] == "draining"

"""OpenAI's own clients for Python and Node, as released, before every answer that they read to a good end directly.

Through the gateway they read the same.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import OPENAI_CLIENTS, command
from tests.gateway.serving import fake_server, real_gateway
from tests.gateway.test_upstream_misbehaviours import policy
from tests.scripted_server import scripted_server
from tests.upstream_misbehaviours import MISBEHAVE, cases, script_of

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]
READABLE = [case for case in cases() if case.direct]


QUESTIONS = [{"model": case.name, "stream": case.stream, "text": MISBEHAVE} for case in READABLE]
CHAT_ONLY = """
version: 1
targets: {big: {kind: openai, engine: openai, url: "%s", model: m, location: external}}
routes: [{name: default, use: big}]
"""
COMPLETIONS = [
    {"model": "auto", "stream": stream, "fields": {"max_tokens": 9, **fields}}
    for stream in (False, True)
    for fields in (
        {"prompt": "Say it: "},
        {"prompt": ["Say it: "], "suffix": "!", "stop": ["\n"]},
        {"prompt": "Say it: ", "echo": True, "logprobs": None, "best_of": 1},
    )
]


async def answers_of(line: list[str | Path], url: str, asked: list[dict[str, Any]]) -> list[Any]:
    """What the client's script saw, case by case."""
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # the environments are installed without bytecode
    process = await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    given = json.dumps({"url": f"{url}/v1", "cases": asked}).encode()
    out, complaint = await process.communicate(given)
    assert process.returncode == 0, complaint.decode()
    return [json.loads(each) for each in out.splitlines()]


@pytest.mark.parametrize("client", OPENAI_CLIENTS)
async def test_a_client_reads_through_the_gateway_whatever_it_reads_directly(client: str, tmp_path: Path) -> None:
    """Each client forgives other things, so what is right is what it reads directly."""
    line = await asyncio.to_thread(command, client)
    async with (
        scripted_server(script_of(READABLE)) as upstream,
        real_gateway(tmp_path, policy(upstream.url)) as gateway,
    ):
        direct, through = await asyncio.gather(
            answers_of(line, upstream.url, QUESTIONS), answers_of(line, gateway.url, QUESTIONS)
        )
    names = [f"{case.name} ({'stream' if case.stream else 'whole'})" for case in READABLE]
    read = {name: seen for name, seen in zip(names, direct, strict=True) if seen["finished"] and not seen["error"]}
    assert len(read) > 0.8 * len(READABLE)
    differ = {name: seen for name, seen in zip(names, through, strict=True) if seen != read.get(name, seen)}
    assert not differ


@pytest.mark.parametrize("client", OPENAI_CLIENTS)
async def test_a_client_completes_text_before_a_model_that_only_chats(client: str, tmp_path: Path) -> None:
    line = await asyncio.to_thread(command, client)
    async with fake_server() as upstream, real_gateway(tmp_path, CHAT_ONLY % upstream.url) as gateway:
        seen = await answers_of(line, gateway.url, COMPLETIONS)
    texts = ["hello", "hello", "Say it: hello"] * 2
    assert [(each["text"], each["finished"], each["error"]) for each in seen] == [(text, True, "") for text in texts]

"""The official client against a gateway in a separate process."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.gateway.serving import chunk, fake_server, says_hello, start_stream

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  quality: {kind: openai, engine: openai, url: "%s", model: m, location: external}
routes:
  - {name: default, use: quality}
"""


async def answer(request: Any, body: dict[str, Any]) -> Any:
    """Respond, or interrupt the stream on request."""
    if body["messages"][0]["content"] != "break":
        return await says_hello(request, body)
    stream = await start_stream(request)
    await stream.write(chunk("half"))
    request.transport.abort()
    return stream


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    async with fake_server(answer) as server:
        policy = tmp_path / "policy.yaml"
        policy.write_text(POLICY % server.url)
        line = [sys.executable, "-m", "gateway", "serve", "--policy", str(policy), "--port", "0", "--admin-port", "0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TWOLANE_")}
        root = Path(__file__).parents[2]
        process = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE, env=environment, cwd=root)
        try:
            assert process.stdout is not None
            first = (await process.stdout.readline()).decode()
            url = next(word for word in first.split() if word.startswith("http")).strip(",")
            direct = openai.DefaultAsyncHttpx2Client(trust_env=False)
            async with openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=direct
            ) as it:
                yield it
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 120) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.slow
async def test_the_official_client_works(client: openai.AsyncOpenAI) -> None:
    """Whole, streamed, listed, rejected and interrupted responses are reported by the correct exception."""
    whole = await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}])
    assert whole.choices[0].message.content == "hello"

    stream = await client.chat.completions.create(
        model="quality", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    assert "".join([part.choices[0].delta.content or "" async for part in stream]) == "hello"

    assert [model.id async for model in client.models.list()] == ["auto", "quality"]

    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")

    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model="auto", messages=[])
    assert wrong.value.param == "messages"

    broken = await client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "break"}], stream=True
    )
    assert (await anext(broken)).choices[0].delta.content == "half"
    with pytest.raises(openai.APIError) as lost:
        await anext(broken)
    assert lost.value.code == "upstream_error"

"""Sends the rows of a tour with the official `openai` client, as an application would, and notes what came back.

Knows the client library; knows nothing of what is expected.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import openai

from twolane.demo.case_types import Row
from twolane.demo.expectations import Reply, differences

PAUSE_S = 0.05
TIMEOUT_S = 600.0  # the gateway gives up first


def connect(gateway_url: str) -> openai.AsyncOpenAI:
    """Return a client for the gateway that never retries: retrying is the gateway's business here."""
    direct = openai.DefaultAsyncHttpx2Client(trust_env=False)  # loopback needs no proxy, whatever the environment says
    return openai.AsyncOpenAI(
        base_url=f"{gateway_url}/v1", api_key="unused", max_retries=0, timeout=TIMEOUT_S, http_client=direct
    )


async def send_row(client: openai.AsyncOpenAI, row: Row) -> list[Reply]:
    """Send a row as often as it says and return every reply, in order of sending."""
    return await _send_until(client, row) if row.until else await _send_round(client, row)


async def _send_round(client: openai.AsyncOpenAI, row: Row) -> list[Reply]:
    if row.together:
        return list(await asyncio.gather(*(send(client, row) for _ in range(row.times))))
    return [await send(client, row) for _ in range(row.times)]


async def _send_until(client: openai.AsyncOpenAI, row: Row) -> list[Reply]:
    replies: list[Reply] = []
    good = 0
    deadline = time.monotonic() + row.within_s
    while good < row.in_a_row and time.monotonic() < deadline:
        came = await _send_round(client, row)
        good = good + 1 if any(not differences(row.expect, reply) for reply in came) else 0
        replies += came
        await asyncio.sleep(PAUSE_S)
    return replies


async def send(client: openai.AsyncOpenAI, row: Row) -> Reply:
    """Send one request and wait for the whole answer, streamed or not."""
    started = time.monotonic()
    try:
        status, headers, text = await _create(client, row)
        broken = ""
    except openai.APIStatusError as refused:
        status, headers, text, broken = refused.status_code, refused.response.headers, str(refused.code), ""
    except openai.APIConnectionError as lost:
        status, headers, text, broken = 0, {}, "", f"no answer: {lost}"
    except openai.APIError as late:
        status, headers, text, broken = 200, {}, "", f"the stream ended with an error: {late.message}"
    return Reply(
        status=status,
        text=text,
        elapsed_ms=(time.monotonic() - started) * 1000,
        headers={name.lower(): value for name, value in headers.items()},
        broken=broken,
    )


async def _create(client: openai.AsyncOpenAI, row: Row) -> tuple[int, Mapping[str, str], str]:
    ask: Any = client.chat.completions.with_raw_response.create  # the body is data, beyond what overloads can type
    messages = [{"role": "user", "content": row.prompt}]
    raw = await ask(model=row.model, messages=messages, stream=row.stream, extra_headers=row.headers, **row.body)
    answer = raw.parse()
    if not row.stream:
        return raw.status_code, raw.headers, answer.choices[0].message.content or ""
    pieces = [chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices]
    return raw.status_code, raw.headers, "".join(pieces)

"""Sends the demo's cases with the official `openai` client, as an application would, and records the responses."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Final

import openai

from twolane.demo.case_types import Api, Case
from twolane.demo.expectations import Reply, differences

PAUSE_S = 0.05
TIMEOUT_S = 600.0  # longer than the gateway's own deadlines


def connect(gateway_url: str) -> openai.AsyncOpenAI:
    """Return a client for the gateway that never retries, because the demo shows the gateway's own retries."""
    direct = openai.DefaultAsyncHttpx2Client(trust_env=False)  # no proxy for loopback, whatever the environment sets
    return openai.AsyncOpenAI(
        base_url=f"{gateway_url}/v1", api_key="unused", max_retries=0, timeout=TIMEOUT_S, http_client=direct
    )


async def send_case(client: openai.AsyncOpenAI, case: Case) -> list[Reply]:
    """Send all requests of a case and return the replies in the order of sending."""
    return await _send_repeatedly(client, case) if case.repeat else await _send_round(client, case)


async def _send_round(client: openai.AsyncOpenAI, case: Case) -> list[Reply]:
    if case.concurrent:
        return list(await asyncio.gather(*(send(client, case) for _ in range(case.times))))
    return [await send(client, case) for _ in range(case.times)]


async def _send_repeatedly(client: openai.AsyncOpenAI, case: Case) -> list[Reply]:
    replies: list[Reply] = []
    consecutive = 0
    deadline = time.monotonic() + case.within_s
    while consecutive < case.consecutive and time.monotonic() < deadline:
        latest = await _send_round(client, case)
        consecutive = consecutive + 1 if any(not differences(case.expect, reply) for reply in latest) else 0
        replies += latest
        await asyncio.sleep(PAUSE_S)
    return replies


async def send(client: openai.AsyncOpenAI, case: Case) -> Reply:
    """Send one request and wait for the whole response, streamed or not."""
    started = time.monotonic()
    try:
        status, headers, text = await _create(client, case)
        error = ""
    except openai.APIStatusError as refused:
        status, headers, text, error = refused.status_code, refused.response.headers, str(refused.code), ""
    except openai.APIConnectionError as lost:
        status, headers, text, error = 0, {}, "", f"no response: {lost}"
    except openai.APIError as failed:
        status, headers, text, error = 200, {}, "", f"the stream ended with an error: {failed.message}"
    return Reply(
        status=status,
        text=text,
        elapsed_ms=(time.monotonic() - started) * 1000,
        headers={name.lower(): value for name, value in headers.items()},
        error=error,
    )


async def _create(client: openai.AsyncOpenAI, case: Case) -> tuple[int, Mapping[str, str], str]:
    """The status, the headers, and the response as a text."""
    return await _CREATE[case.api](client, case)


async def _create_completion(client: openai.AsyncOpenAI, case: Case) -> tuple[int, Mapping[str, str], str]:
    create: Any = client.completions.with_raw_response.create
    raw = await create(model=case.model, prompt=case.prompt, extra_headers=case.headers, **case.body)
    return raw.status_code, raw.headers, raw.parse().choices[0].text


async def _create_decision(client: openai.AsyncOpenAI, case: Case) -> tuple[int, Mapping[str, str], str]:
    create: Any = client.decisions.with_raw_response.create  # its questions have no member `min_confidence`
    raw = await create(
        model=case.model, input=case.prompt, questions=[], extra_headers=case.headers, extra_body=case.body
    )
    answers = {answer.name: _answer_of(answer) for answer in raw.parse().answers}
    return raw.status_code, raw.headers, json.dumps(answers)


def _answer_of(answer: Any) -> Any:
    """A predicate as its probability, a choice as its value, a score as its number."""
    found = {name: getattr(answer, name, None) for name in ("probability", "choice", "score")}
    return next((value for value in found.values() if value is not None), answer.type)


async def _create_chat(client: openai.AsyncOpenAI, case: Case) -> tuple[int, Mapping[str, str], str]:
    create: Any = client.chat.completions.with_raw_response.create  # its overloads reject a body built at run time
    messages = [{"role": "user", "content": case.prompt}]
    raw = await create(model=case.model, messages=messages, stream=case.stream, extra_headers=case.headers, **case.body)
    parsed = raw.parse()
    if not case.stream:
        return raw.status_code, raw.headers, parsed.choices[0].message.content or ""
    pieces = [chunk.choices[0].delta.content or "" async for chunk in parsed if chunk.choices]
    return raw.status_code, raw.headers, "".join(pieces)


_CREATE: Final = {Api.CHAT: _create_chat, Api.COMPLETION: _create_completion, Api.DECISION: _create_decision}

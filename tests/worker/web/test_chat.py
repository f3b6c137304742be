"""Chat completions: answers, streams, stop strings and client disconnects."""

import asyncio
import json
import socket
import time
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from diffusion_worker.types.requests import DenoisingParams
from tests.worker.pacing import held, in_step
from tests.worker.serving import (
    CHAT,
    MODEL,
    READ,
    VERIFIED,
    Served,
    events,
    listening,
    serving,
    toy_model,
    toy_tokenizer,
    until,
)

pytestmark = pytest.mark.anyio
LONG = "the same words again and again, " * 30


def choice(answer: Any) -> tuple[str, str]:
    first = answer.json()["choices"][0]
    return first["message"]["content"], first["finish_reason"]


def deltas(text: str) -> str:
    chunks = [json.loads(data) for data in events(text) if data != "[DONE]"]
    return "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"])


@pytest.mark.parametrize(
    "model", [MODEL, VERIFIED, READ, "diffusion", "diffusion:verified", "diffusion:autoregressive"]
)
async def test_an_answer_over_several_blocks_is_complete(model: str) -> None:
    """In every decoding mode, by id or alias, streamed or not."""
    text = "größer 日本 🙂 " * 2
    async with serving(toy_model()) as served:
        assert choice(await served.ask(text, model=model)) == (text, "stop")
        streamed = await served.ask(text, model=model, stream=True)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert deltas(streamed.text) == text


@pytest.mark.parametrize("prediction", ["abcdefgh" * 4, "abcdefgh" * 2, "abcd-fgh" * 4, "something else"])
async def test_a_prediction_changes_the_cost_of_a_verified_answer_and_nothing_else(prediction: str) -> None:
    text = "abcdefgh" * 4
    async with serving(toy_model()) as served:
        plain = (await served.ask(text, model=VERIFIED)).json()
        edited = (await served.ask(text, model=VERIFIED, prediction={"type": "content", "content": prediction})).json()
        stopped = await served.ask(text, model=VERIFIED, stop="efgha")
    assert edited["choices"] == plain["choices"]
    passes = [each["usage"]["diffusion"]["forward_passes"] for each in (edited, plain)]
    assert passes[0] < passes[1] if prediction == text else passes[0] <= 2 * passes[1]
    assert choice(stopped) == ("abcd", "stop")


async def test_the_events_of_a_stream_are_in_order() -> None:
    """Role, final text, finish with `diffusion`, DONE; usage only if requested."""
    async with serving(toy_model()) as served:
        *chunks, done = events((await served.ask("x" * 40, stream=True)).text)
    first, *middle, last = map(json.loads, chunks)
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    parts = [chunk["choices"][0]["delta"]["content"] for chunk in middle]
    assert all(parts)
    assert "".join(parts) == "x" * 40
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert last["diffusion"]["converged"] is True
    assert len({chunk["id"] for chunk in (first, *middle, last)}) == 1
    assert not any("usage" in chunk for chunk in (first, *middle, last))


async def test_usage_of_a_stream_is_a_separate_chunk() -> None:
    """All other chunks then have a null usage, as with OpenAI."""
    async with serving(toy_model()) as served:
        answer = await served.ask("hello", stream=True, stream_options={"include_usage": True})
    *others, usage = [json.loads(data) for data in events(answer.text)[:-1]]
    assert [chunk["usage"] for chunk in others] == [None] * len(others)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 6)
    assert usage["usage"]["diffusion"] == others[-1]["diffusion"]


@pytest.mark.parametrize("max_tokens", [1, 5, 16, 17, 40])
async def test_max_tokens_is_exact(max_tokens: int) -> None:
    """Not rounded to a multiple of the canvas length."""
    async with serving(toy_model(answer="y" * 100)) as served:
        answer = await served.ask(max_tokens=max_tokens)
    assert choice(answer) == ("y" * max_tokens, "length")
    assert answer.json()["usage"]["completion_tokens"] == max_tokens


async def test_without_max_tokens_an_answer_may_take_the_rest_of_the_context() -> None:
    async with serving(toy_model(answer="y" * 500, max_context=150)) as served:
        answer = await served.ask()
        text, reason = choice(answer)
        usage = answer.json()["usage"]
        assert (set(text), reason, usage["total_tokens"]) == ({"y"}, "length", 150)


@pytest.mark.slow
async def test_a_schema_that_needs_more_than_four_canvases_needs_no_max_tokens() -> None:
    names = [f"flag_{number}" for number in range(14)]
    properties = {name: {"type": "boolean"} for name in names}
    schema = {"type": "object", "properties": properties, "required": names, "additionalProperties": False}
    named = {"type": "json_schema", "json_schema": {"name": "flags", "schema": schema}}
    async with serving(toy_model(answer="y" * 500, max_context=1000)) as served:
        text, reason = choice(await served.ask(response_format=named))
    assert (set(json.loads(text)), reason) == (set(names), "stop")


@pytest.mark.parametrize("model", [MODEL, READ, VERIFIED])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_text_and_the_generation(model: str, stream: bool) -> None:
    """It spans two blocks, is not returned, and no further block is computed."""
    toy = in_step(toy_model(answer="a" * 14 + "STOP" + "b" * 900, max_context=2000))
    async with serving(toy) as served:
        answer = await served.ask(model=model, stop=["STOP", "zz"], stream=stream, max_tokens=900)
        await until(lambda: served.engine.status().running == 0)
        text = deltas(answer.text) if stream else choice(answer)[0]
        assert text == "a" * 14
        assert toy.passes < 100  # a complete generation takes at least 114 passes
        if not stream:
            assert choice(answer)[1] == "stop"
            assert answer.json()["usage"]["completion_tokens"] == 18


async def test_accepted_and_rejected_prediction_tokens_are_counted() -> None:
    async with serving(toy_model(answer="hello world")) as served:
        answer = await served.ask(prediction={"type": "content", "content": "hello there"})
        assert answer.json()["usage"]["completion_tokens_details"] == {
            "accepted_prediction_tokens": 7,
            "rejected_prediction_tokens": 4,
            "reasoning_tokens": 0,
        }


async def test_the_same_seed_gives_the_same_text() -> None:
    """Without a seed each request draws a random one."""
    toy = toy_model(
        pace=0, denoising=DenoisingParams(canvas_length=16, steps=2)
    )  # an uncertain model: every token is sampled
    async with serving(toy) as served:
        texts = [choice(await served.ask(seed=seed, max_tokens=16))[0] for seed in (1, 1)]
        assert texts[0] == texts[1]


async def test_two_requests_are_batched() -> None:
    """Neither waits for the other to finish."""
    ended: list[str] = []
    toy = in_step(toy_model(answer=LONG, max_context=2000))
    async with serving(toy) as served:
        with held(toy):
            slow = asyncio.create_task(served.ask(max_tokens=400), name="slow")
            await until(lambda: served.engine.status().running == 1)
            quick = asyncio.create_task(served.ask(max_tokens=16), name="quick")
            await until(lambda: served.engine.status().waiting == 1)
        for task in (slow, quick):
            task.add_done_callback(lambda done: ended.append(done.get_name()))
        assert choice(await quick)[0] == LONG[:16]
        assert choice(await slow)[0] == LONG[:400]
        assert ended == ["quick", "slow"]


async def test_requests_over_capacity_receive_429() -> None:
    """Immediately, with Retry-After."""
    toy = toy_model(answer=LONG, max_context=2000)
    async with serving(toy, max_num_seqs=1, max_waiting=1) as served:
        with held(toy):
            busy = [asyncio.create_task(served.ask(max_tokens=800)) for _ in range(2)]
            await until(lambda: served.engine.status().running + served.engine.status().waiting == 2)
            shed = await served.ask()
            assert (shed.status_code, shed.json()["error"]["code"]) == (429, "overloaded")
            assert int(shed.headers["retry-after"]) >= 1
            for task in busy:
                task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


@pytest.mark.parametrize("source", ["header", "body"])
async def test_a_deadline_returns_the_answer_so_far(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller deadline applies; the finish reason is that of an answer that reached max_tokens. By the engine's
    clock, each pass takes five seconds."""
    toy = toy_model(answer=LONG, max_context=2000)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 5.0 * toy.passes)
    near, far = ("120000", 7_200_000) if source == "header" else ("7200000", 120_000)
    async with serving(toy) as served:
        monkeypatch.setattr("diffusion_worker.engine.loop.time", clock)
        answer = await served.ask(
            max_tokens=900, headers={"x-twolane-deadline-ms": near}, diffusion={"deadline_ms": far}
        )
        text, reason = choice(answer)
        assert reason == "length"
        assert LONG.startswith(text[:8])
        assert 0 < len(text) < 900


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", ""])
async def test_an_invalid_deadline_header_is_refused(value: str) -> None:
    """The error names the header."""
    async with serving(toy_model()) as served:
        answer = await served.ask(headers={"x-twolane-deadline-ms": value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-twolane-deadline-ms")


async def test_denoising_params_can_be_set() -> None:
    """Fewer steps are fewer passes, and `converged` is false."""
    async with serving(toy_model(answer="y" * 16, pace=4)) as served:
        usage = (await served.ask(diffusion={"steps": 2}, max_tokens=16)).json()["usage"]["diffusion"]
        assert (usage["denoising_steps"], usage["converged"]) == (2, False)


async def test_a_large_prompt_does_not_block_the_event_loop() -> None:
    """It is parsed in a thread; the error for its length contains the limit."""
    async with serving(toy_model(max_context=1000)) as served:
        answer = await served.ask("x" * 200_000)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
        assert "1000" in error["message"]


async def test_an_error_before_the_first_block_has_its_own_status() -> None:
    """Also for streams, because nothing has been sent yet."""
    async with serving(toy_model()) as served:
        served.model._sure = float("nan")
        for stream in (False, True):
            answer = await served.ask(stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "not_finite")


async def test_an_error_after_the_first_block_is_the_last_event() -> None:
    """Without [DONE], so that the client knows the answer is incomplete."""
    toy = toy_model(answer=LONG, max_context=2000)
    async with serving(toy) as served:
        with held(toy, after=20) as begun:
            asking = asyncio.create_task(served.ask(max_tokens=900, stream=True))
            await until(lambda: "sealed_blocks_total 0.0" not in _metrics(served))
            await until(begun.is_set)
            closing = asyncio.create_task(served.engine.close())
            await until(served.engine._should_unload.is_set)
        await closing
        *_, last = events((await asking).text)
    assert json.loads(last)["error"]["code"] == "draining"


def _metrics(served: Served) -> str:
    return served.worker.serving_state.meters.render(served.engine.status()).decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [MODEL, READ])
async def test_a_client_disconnect_stops_the_generation(stream: bool, model: str) -> None:
    """Over a real socket: no passes are computed after the disconnect."""
    toy = in_step(toy_model(answer=LONG, seconds_per_pass=0.01, max_context=2000))
    async with listening(toy) as served:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 900, "stream": stream}
        reader, writer = await asyncio.open_connection("127.0.0.1", served.client.base_url.port)
        writer.write(_request(json.dumps(body).encode()))
        await until(lambda: toy.passes > 3)
        if stream:
            await reader.readuntil(b'"role":"assistant"')
        writer.close()
        await until(lambda: served.engine.status().running == 0)
        passes = toy.passes
        assert passes < 200
        assert "twolane_worker_cancelled_total 1.0" in _metrics(served)
        await served.ask("bye", max_tokens=1)  # the next request is served, and no other is running
        assert toy.passes < passes + 10


def _request(body: bytes) -> bytes:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: worker\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def test_a_body_too_large_is_refused_over_a_socket() -> None:
    """The client receives 413, not a connection reset, and the connection stays usable."""
    async with listening(toy_model(), max_body_bytes=10_000) as served:
        answer = await served.ask("x" * 3_000_000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert (await served.ask("hello")).status_code == 200


async def test_an_incomplete_request_leaves_no_state() -> None:
    """The client disconnects while sending the body."""
    async with listening(toy_model()) as served:
        with socket.create_connection(("127.0.0.1", served.client.base_url.port or 0)) as half:
            half.sendall(_request(b'{"model": "toy"}')[:-5])
        assert choice(await served.ask("hello"))[0] == "hello"
        assert served.engine.status().running == 0


async def test_the_openai_client_reads_answers_and_streams() -> None:
    async with listening(toy_model()) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none", max_retries=0)
        async with client:
            messages: Any = [{"role": "user", "content": "hello there"}]
            whole = await client.chat.completions.create(model=MODEL, messages=messages, seed=1, temperature=0)
            assert whole.choices[0].message.content == "hello there"
            assert whole.usage is not None
            assert whole.usage.completion_tokens == len("hello there") + 1
            stream = await client.chat.completions.create(
                model=READ, messages=messages, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello there"
            assert chunks[-1].usage is not None
            models = await client.models.list()
            assert [model.id for model in models.data] == [MODEL, VERIFIED, READ]


async def test_the_openai_client_reads_errors() -> None:
    """Class, code and param."""
    async with listening(toy_model()) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none", max_retries=0)
        async with client:
            messages: Any = [{"role": "user", "content": "hello"}]
            with pytest.raises(openai.NotFoundError) as missing:
                await client.chat.completions.create(model="gpt", messages=messages)
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError) as bad:
                await client.chat.completions.create(model=MODEL, messages=messages, n=2)
            assert (bad.value.code, bad.value.param) == ("unsupported_parameter", "n")


def test_the_toy_model_uses_the_embedded_vocabulary() -> None:
    """A precondition of these tests."""
    assert toy_tokenizer().size == 272


async def test_the_stable_prefix_is_streamed_and_drafts_are_optional() -> None:
    """Text is sent before its block is sealed; clients that read only choices can ignore drafts."""
    toy = toy_model(answer="y" * 40, pace=4)
    async with serving(toy) as served:
        answer = await served.ask(stream=True, stream_options={"include_drafts": True}, max_tokens=60)
        plain = await served.ask(stream=True, max_tokens=60)
    chunks = [json.loads(data) for data in events(answer.text)[:-1]]
    drafts = [chunk["twolane"] for chunk in chunks if not chunk["choices"]]
    assert deltas(answer.text) == deltas(plain.text) == "y" * 40
    assert "twolane" not in plain.text
    first = [draft["step"] for draft in drafts if draft["block"] == 0]
    assert first == list(range(1, len(first) + 1))
    assert drafts[-1]["draft"] == "y" * 8
    for draft in drafts:
        assert "".join(position["token"] for position in draft["positions"]) == draft["draft"]
        assert all(0 <= position["confidence"] <= 1 for position in draft["positions"])
    assert {"accepted", "pinned"} <= {position["state"] for draft in drafts for position in draft["positions"]}
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks if chunk["choices"]]
    assert len([text for text in texts if text]) > 3  # more chunks than blocks

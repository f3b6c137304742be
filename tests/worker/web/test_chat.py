"""web.chat and web.relay: answers, streams, stop strings, clients that leave."""

import asyncio
import json
import socket
from typing import Any

import openai
import pytest

from diffusion_worker.types.requests import DenoisingParams
from tests.worker.serving import CHAT, MODEL, READ, Served, events, listening, serving, toy_model, toy_tokenizer, until

pytestmark = pytest.mark.anyio
LONG = "the same words again and again, " * 30


def choice(answer: Any) -> tuple[str, str]:
    first = answer.json()["choices"][0]
    return first["message"]["content"], first["finish_reason"]


def deltas(text: str) -> str:
    chunks = [json.loads(data) for data in events(text) if data != "[DONE]"]
    return "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"])


@pytest.mark.parametrize("model", [MODEL, READ, "diffusion", "diffusion:autoregressive"])
async def test_an_answer_over_several_blocks_comes_whole(model: str) -> None:
    """Either reading of the weights, by id or alias, whole or streamed."""
    text = "größer 日本 🙂 " * 2
    async with serving(toy_model()) as served:
        assert choice(await served.ask(text, model=model)) == (text, "stop")
        streamed = await served.ask(text, model=model, stream=True)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert deltas(streamed.text) == text


async def test_a_stream_has_its_parts_in_order() -> None:
    """Role, text as it becomes final, finish with `diffusion`, DONE; usage only when asked for."""
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


async def test_usage_of_a_stream_comes_in_a_chunk_of_its_own() -> None:
    """All others then carry a null, as OpenAI's do."""
    async with serving(toy_model()) as served:
        answer = await served.ask("hello", stream=True, stream_options={"include_usage": True})
    *others, usage = [json.loads(data) for data in events(answer.text)[:-1]]
    assert [chunk["usage"] for chunk in others] == [None] * len(others)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 6)
    assert usage["usage"]["diffusion"] == others[-1]["diffusion"]


@pytest.mark.parametrize("max_tokens", [1, 5, 16, 17, 40])
async def test_max_tokens_is_exact(max_tokens: int) -> None:
    """Not a multiple of the canvas."""
    async with serving(toy_model(answer="y" * 100)) as served:
        answer = await served.ask(max_tokens=max_tokens)
    assert choice(answer) == ("y" * max_tokens, "length")
    assert answer.json()["usage"]["completion_tokens"] == max_tokens


async def test_without_max_tokens_an_answer_is_bounded() -> None:
    """By four canvases."""
    async with serving(toy_model(answer="y" * 500)) as served:
        assert choice(await served.ask()) == ("y" * 64, "length")


@pytest.mark.parametrize("model", [MODEL, READ])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_text_and_work(model: str, stream: bool) -> None:
    """It lies across two blocks, it does not appear, and no further block is computed."""
    toy = toy_model(answer="a" * 14 + "STOP" + "b" * 900, seconds_per_pass=0.02, max_context=2000)
    async with serving(toy) as served:
        answer = await served.ask(model=model, stop=["STOP", "zz"], stream=stream, max_tokens=900)
        await until(lambda: served.engine.status().running == 0)
        text = deltas(answer.text) if stream else choice(answer)[0]
        assert text == "a" * 14
        assert toy.passes < 100  # of at least 114: the engine may be ahead of its reader, but not at the end
        if not stream:
            assert choice(answer)[1] == "stop"
            assert answer.json()["usage"]["completion_tokens"] == 18


async def test_a_prediction_is_counted_where_it_held() -> None:
    """Emitted tokens that the prediction had; the others of it are rejected."""
    async with serving(toy_model(answer="hello world")) as served:
        answer = await served.ask(prediction={"type": "content", "content": "hello there"})
        assert answer.json()["usage"]["completion_tokens_details"] == {
            "accepted_prediction_tokens": 7,
            "rejected_prediction_tokens": 4,
            "reasoning_tokens": 0,
        }


async def test_the_same_seed_gives_the_same_text() -> None:
    """And without a seed each request draws its own."""
    toy = toy_model(
        pace=0, denoising=DenoisingParams(canvas_length=16, steps=2)
    )  # sure of nothing: every token is drawn
    async with serving(toy) as served:
        texts = [choice(await served.ask(seed=seed, max_tokens=16))[0] for seed in (1, 1)]
        assert texts[0] == texts[1]


async def test_two_requests_advance_together() -> None:
    """Neither waits for the other's end."""
    ended: list[str] = []
    async with serving(toy_model(answer=LONG, seconds_per_pass=0.01, max_context=2000)) as served:
        slow = asyncio.create_task(served.ask(max_tokens=400), name="slow")
        await until(lambda: served.engine.status().running == 1)
        quick = asyncio.create_task(served.ask(max_tokens=16), name="quick")
        for task in (slow, quick):
            task.add_done_callback(lambda done: ended.append(done.get_name()))
        assert choice(await quick)[0] == LONG[:16]
        assert choice(await slow)[0] == LONG[:400]
        assert ended == ["quick", "slow"]


async def test_more_than_run_and_wait_are_shed_with_429() -> None:
    """At once, with the time to come back."""
    toy = toy_model(answer=LONG, seconds_per_pass=0.05, max_context=2000)
    async with serving(toy, max_num_seqs=1, max_waiting=1) as served:
        busy = [asyncio.create_task(served.ask(max_tokens=800)) for _ in range(2)]
        await until(lambda: served.engine.status().running + served.engine.status().waiting == 2)
        shed = await served.ask()
        assert (shed.status_code, shed.json()["error"]["code"]) == (429, "overloaded")
        assert int(shed.headers["retry-after"]) >= 1
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


@pytest.mark.parametrize("source", ["header", "body"])
async def test_a_deadline_returns_what_there_is(source: str) -> None:
    """The smaller of the two holds; the answer is cut like one that ran out of tokens."""
    toy = toy_model(answer=LONG, seconds_per_pass=0.03, max_context=2000)
    near, far = ("800", 60_000) if source == "header" else ("60000", 800)
    async with serving(toy) as served:
        answer = await served.ask(
            max_tokens=900, headers={"x-twolane-deadline-ms": near}, diffusion={"deadline_ms": far}
        )
        text, reason = choice(answer)
        assert reason == "length"
        assert LONG.startswith(text[:8])
        assert len(text) < 900


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", ""])
async def test_a_deadline_that_is_none_is_refused(value: str) -> None:
    """By the name of the header."""
    async with serving(toy_model()) as served:
        answer = await served.ask(headers={"x-twolane-deadline-ms": value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-twolane-deadline-ms")


async def test_numbers_of_the_loop_can_be_set() -> None:
    """Fewer steps are fewer passes, and honesty about not having settled."""
    async with serving(toy_model(answer="y" * 16, pace=4)) as served:
        usage = (await served.ask(diffusion={"steps": 2}, max_tokens=16)).json()["usage"]["diffusion"]
        assert (usage["denoising_steps"], usage["converged"]) == (2, False)


async def test_a_large_prompt_does_not_hold_up_the_event_loop() -> None:
    """It is read on another thread; its length is then refused with the numbers."""
    async with serving(toy_model(max_context=1000)) as served:
        answer = await served.ask("x" * 200_000)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
        assert "1000" in error["message"]


async def test_an_error_before_the_first_block_has_its_own_status() -> None:
    """Also for a stream: nothing has left yet."""
    async with serving(toy_model(confidence=float("nan"))) as served:
        for stream in (False, True):
            answer = await served.ask(stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "not_finite")


async def test_an_error_after_the_first_block_is_the_last_event() -> None:
    """No [DONE] follows: the client must not take the text for whole."""
    toy = toy_model(answer=LONG, seconds_per_pass=0.02, max_context=2000)
    async with serving(toy) as served:
        asking = asyncio.create_task(served.ask(max_tokens=900, stream=True))
        await until(lambda: "sealed_blocks_total 0.0" not in _metrics(served))
        await served.engine.close()
        *_, last = events((await asking).text)
    assert json.loads(last)["error"]["code"] == "draining"


def _metrics(served: Served) -> str:
    return served.worker.serving_state.meters.render(served.engine.status()).decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [MODEL, READ])
async def test_a_client_that_leaves_stops_its_work(stream: bool, model: str) -> None:
    """Over a real socket: no pass is made for nobody."""
    toy = toy_model(answer=LONG, seconds_per_pass=0.01, max_context=2000)
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
        await served.ask("bye", max_tokens=1)  # the next client is served, and nothing else runs beside it
        assert toy.passes < passes + 10


def _request(body: bytes) -> bytes:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: worker\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def test_a_body_too_large_is_refused_over_a_socket() -> None:
    """The client gets its 413, not a reset, and the connection serves on."""
    async with listening(toy_model(), max_body_bytes=10_000) as served:
        answer = await served.ask("x" * 3_000_000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert (await served.ask("hello")).status_code == 200


async def test_half_a_request_leaves_nothing_behind() -> None:
    """A client that leaves while sending costs nothing."""
    async with listening(toy_model()) as served:
        with socket.create_connection(("127.0.0.1", served.client.base_url.port or 0)) as half:
            half.sendall(_request(b'{"model": "toy"}')[:-5])
        assert choice(await served.ask("hello"))[0] == "hello"
        assert served.engine.status().running == 0


async def test_the_official_client_reads_answers_and_streams() -> None:
    """As any application would."""
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
            assert [model.id for model in models.data] == [MODEL, READ]


async def test_the_official_client_reads_errors() -> None:
    """Their class, code and param."""
    async with listening(toy_model()) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none", max_retries=0)
        async with client:
            messages: Any = [{"role": "user", "content": "hello"}]
            with pytest.raises(openai.NotFoundError) as missing:
                await client.chat.completions.create(model="gpt", messages=messages)
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError) as bad:
                await client.chat.completions.create(model=MODEL, messages=messages, top_p=0.5)
            assert (bad.value.code, bad.value.param) == ("unsupported_parameter", "top_p")


def test_the_toy_speaks_the_embedded_vocabulary() -> None:
    """What these tests rely on."""
    assert toy_tokenizer().size == 272


async def test_a_canvas_streams_as_it_settles_and_drafts_show_it() -> None:
    """Text leaves before its block is sealed; drafts are opt-in, and a client that reads choices reads past them."""
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
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks if chunk["choices"]]
    assert len([text for text in texts if text]) > 3  # more often than blocks are sealed

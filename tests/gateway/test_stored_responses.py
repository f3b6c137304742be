"""OpenAI's client stores, continues, reads and deletes responses of a gateway with a store."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from gateway.state import redis_response_store
from tests.gateway.redis_server import RedisServer, redis_server
from tests.gateway.serving import completion, fake_server, one_lane, until
from tests.gateway.test_passed_responses import THOUGHT, Provider, message
from tests.gateway.test_passed_responses import policy as passing
from tests.gateway.test_responses import PATH, WEATHER, Model, Stack, call

pytestmark = pytest.mark.anyio

KEYS = {"alice": "a" * 43, "bob": "b" * 43}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not look like a stopped Redis."""
    monkeypatch.setattr(redis_response_store, "PUT_S", 60)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def stack(serving: Any, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    lines = [f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()]
    (tmp_path / "keys").write_text("\n".join(lines))
    model = Model()
    settings: dict[str, Any] = {"keys_file": tmp_path / "keys", "responses_bytes": 100_000}
    if request.param == "redis":
        url = request.getfixturevalue("redis").url
        settings |= {"responses_store": "redis", "redis_url": url, "redis_namespace": request.node.name}
    async with fake_server(model.answer) as target, serving(one_lane(target.url), **settings) as gateway:
        made = Stack(gateway, target, model)
        made.client = made.client.with_options(api_key=KEYS["alice"])
        async with made.client:
            yield made


def sent_by(stack: Stack) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in stack.target.bodies[-1]["messages"]]


async def test_a_conversation_continues_from_a_stored_response(stack: Stack) -> None:
    stack.says({"content": "Hello Ann."}, {"content": "Ann."}, {"content": "Bye."})
    first = await stack.client.responses.create(model="auto", input="I am Ann.", instructions="Be kind.", store=True)
    async with stack.client.responses.stream(
        model="auto", input="Who am I?", previous_response_id=first.id, store=True
    ) as stream:
        second = await stream.get_final_response()
    await stack.client.responses.create(model="auto", input="Bye", previous_response_id=second.id)
    assert sent_by(stack) == [
        ("user", "I am Ann."),
        ("assistant", "Hello Ann."),
        ("user", "Who am I?"),
        ("assistant", "Ann."),
        ("user", "Bye"),
    ]
    assert second.previous_response_id == first.id


async def test_a_stored_response_is_read_as_it_was_and_deleted(stack: Stack) -> None:
    stack.says({"content": "Hello."}, {"content": "Hello."})
    raw = await stack.client.responses.with_raw_response.create(model="auto", input="Hi", store=True)
    made: Any = raw.parse()
    assert "x-twolane-ignored" not in raw.headers
    assert await stack.client.responses.retrieve(made.id) == made
    await stack.client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await stack.client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await stack.client.responses.create(model="auto", input="Hi", previous_response_id=made.id)
    assert caught.value.param == "previous_response_id"


async def test_another_key_can_neither_read_nor_continue_nor_delete(stack: Stack) -> None:
    stack.says({"content": "Hello."})
    made = await stack.client.responses.create(model="auto", input="Hi", store=True)
    other = stack.client.with_options(api_key=KEYS["bob"])
    for attempt in (
        other.responses.retrieve(made.id),
        other.responses.delete(made.id),
        other.responses.input_items.list(made.id),
        other.responses.create(model="auto", input="Hi", previous_response_id=made.id),
        other.responses.create(model="auto", input=[{"type": "item_reference", "id": str(made.output[0].id)}]),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await attempt
        assert caught.value.status_code in (400, 404)
    assert (await stack.client.responses.retrieve(made.id)).id == made.id


async def test_the_items_that_led_to_a_response_are_listed_in_pages(stack: Stack) -> None:
    stack.says({"content": "Hello."})
    items: Any = [{"role": "user", "content": text} for text in "abc"]
    made = await stack.client.responses.create(model="auto", input=items, store=True)
    page = await stack.client.responses.input_items.list(made.id, limit=2)
    assert [item.content[0].text async for item in page] == ["c", "b", "a"]  # type: ignore[union-attr]
    page = await stack.client.responses.input_items.list(made.id, order="asc")
    assert [item.content[0].text for item in page.data] == ["a", "b", "c"]  # type: ignore[union-attr]
    assert len({item.id for item in page.data}) == 3


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=" + "1" * 5000, "order=up", "after=item_9"]
)
async def test_an_impossible_page_is_refused_by_name(stack: Stack, query: str) -> None:
    stack.says({"content": "Hello."})
    made = await stack.client.responses.create(model="auto", input="Hi", store=True)
    url = f"{stack.gateway.url}{PATH}/{made.id}/input_items?{query}"
    async with stack.gateway.client.get(url, headers={"authorization": f"Bearer {KEYS['alice']}"}) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, query.partition("=")[0])


async def test_references_to_stored_items_stand_for_them(stack: Stack) -> None:
    """The AI SDK refers to texts and reasoning by id unless `store` is false."""
    stack.says({"content": "Let me see.", "tool_calls": [call("weather", '{"city": "Rome"}')]}, {"content": "Warm."})
    common: Any = {"model": "auto", "tools": [WEATHER], "store": True}
    said, called = (await stack.client.responses.create(input="Rome?", **common)).output
    items: Any = [
        {"role": "user", "content": "Rome?"},
        {"type": "item_reference", "id": said.id},
        {"type": "item_reference", "id": called.id},
        {"type": "function_call_output", "call_id": "call_1", "output": "20"},
    ]
    made = await stack.client.responses.create(input=items, **common)
    assert sent_by(stack) == [("user", "Rome?"), ("assistant", "Let me see."), ("tool", "20")]
    page = await stack.client.responses.input_items.list(made.id, order="asc")
    assert [item.type for item in page.data] == ["message", "message", "function_call", "function_call_output"]


@pytest.mark.parametrize("store", [None, False])
async def test_nothing_is_kept_unless_asked(stack: Stack, store: bool | None) -> None:
    stack.says({"content": "Hello."})
    made = await stack.client.responses.create(model="auto", input="Hi", store=store)
    assert (made.model_extra or {})["store"] is False
    with pytest.raises(openai.NotFoundError):
        await stack.client.responses.retrieve(made.id)


async def test_a_private_request_is_never_kept(stack: Stack) -> None:
    stack.says({"content": "Hello."})
    private = {"x-twolane-private": "true"}
    raw = await stack.client.responses.with_raw_response.create(
        model="auto", input="Hi", store=True, extra_headers=private
    )
    assert raw.headers["x-twolane-ignored"] == "store"
    with pytest.raises(openai.NotFoundError):
        await stack.client.responses.retrieve(raw.parse().id)  # type: ignore[union-attr]


async def test_a_request_that_its_route_makes_private_is_never_kept(serving: Any) -> None:
    model = Model()
    async with (
        fake_server(model.answer) as target,
        serving(one_lane(target.url, private=True), responses_bytes=100_000) as gateway,
    ):
        stack = Stack(gateway, target, model)
        stack.says({"content": "Hello."})
        async with stack.client:
            made = await stack.client.responses.create(model="auto", input="Hi", store=True)
            assert (made.model_extra or {})["store"] is False
            with pytest.raises(openai.NotFoundError):
                await stack.client.responses.retrieve(made.id)


async def test_a_gateway_without_a_store_finds_no_response(serving: Any) -> None:
    async with fake_server() as target, serving(one_lane(target.url)) as gateway:
        for path in ("resp_1", "resp_1/input_items"):
            async with gateway.client.get(f"{gateway.url}{PATH}/{path}") as answer:
                assert (answer.status, (await answer.json())["error"]["type"]) == (404, "invalid_request_error")


async def test_what_a_request_refers_to_is_limited_and_counted_like_its_body(serving: Any) -> None:
    limits = {"responses_bytes": 100_000, "max_body_bytes": 20_000, "max_inflight_bytes": 100_000}
    go, size = asyncio.Event(), 12_000

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if len(body["messages"]) > 1:
            await go.wait()
        return web.json_response(completion("x" * size))

    async with fake_server(answer) as target, serving(one_lane(target.url), **limits) as gateway:
        _, _, made = await gateway.ask({"model": "auto", "input": "Hi", "store": True}, path=PATH)
        reference = {"type": "item_reference", "id": made["output"][0]["id"]}
        status, _, refused = await gateway.ask({"model": "auto", "input": [reference, reference]}, path=PATH)
        assert (status, refused["error"]["param"]) == (413, "input")
        continued = {"model": "auto", "input": "More", "previous_response_id": made["id"]}
        running = asyncio.create_task(gateway.ask(continued, path=PATH))
        async with asyncio.timeout(60):
            while len(target.bodies) < 2:  # noqa: ASYNC110 - the target has no event for it
                await asyncio.sleep(0.005)
        page = await gateway.metrics()
        assert float(page.rpartition("twolane_bytes_in_flight ")[2].split()[0]) > size
        go.set()
        assert (await running)[0] == 200
        await until(gateway.metrics, "twolane_bytes_in_flight 0.0")


async def test_a_gateway_whose_redis_is_down_serves_and_says_that_it_keeps_nothing(
    serving: Any, tmp_path: Path
) -> None:
    model = Model()
    with redis_server(tmp_path) as redis:
        settings = {"responses_bytes": 100_000, "responses_store": "redis", "redis_url": redis.url}
        async with fake_server(model.answer) as target, serving(one_lane(target.url), **settings) as gateway:
            stack = Stack(gateway, target, model)
            async with stack.client:
                stack.says({"content": "a"}, {"content": "b"}, {"content": "c"}, {"content": "d"})
                kept = await stack.client.responses.create(model="auto", input="Hi", store=True)
                redis.stop()
                whole = await stack.client.responses.create(model="auto", input="Hi", store=True)
                raw = await stack.client.responses.with_raw_response.create(model="auto", input="Hi", store=True)
                events = await stack.events(input="Hi", store=True)
                assert [made.model_extra["store"] for made in (kept, whole, raw.parse())] == [True, False, False]
                assert raw.headers["x-twolane-ignored"] == "store"
                assert events[-1][1]["response"]["store"] is False
                with pytest.raises(openai.InternalServerError) as caught:
                    await stack.client.responses.create(model="auto", input="Hi", previous_response_id=kept.id)
                assert (caught.value.status_code, caught.value.code) == (503, "store_unavailable")
                with pytest.raises(openai.InternalServerError):
                    await stack.client.responses.retrieve(kept.id)


async def test_a_stream_that_could_not_be_kept_says_so_at_its_end(serving: Any, tmp_path: Path) -> None:
    """Redis fails while the answer is on its way."""
    model = Model()
    with redis_server(tmp_path) as redis:
        settings = {"responses_bytes": 100_000, "responses_store": "redis", "redis_url": redis.url}

        async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            redis.stop()
            return await model.answer(request, body)

        async with fake_server(answer) as target, serving(one_lane(target.url), **settings) as gateway:
            stack = Stack(gateway, target, model)
            stack.says({"content": "a"})
            events = await stack.events(input="Hi", store=True)
    assert events[0][1]["response"]["store"] is True
    assert (events[-1][0], events[-1][1]["response"]["store"]) == ("response.completed", False)


async def test_items_of_a_passed_response_are_found_and_sent_back_to_their_target(stack: Stack) -> None:
    """Their ids are those of the target."""
    provider = Provider()
    thought, said = THOUGHT, message("Let me see.")
    provider.output = [thought, said]
    async with fake_server(provider.answer) as target:
        stack.gateway.gateway.policies.path.write_text(passing(target.url))
        stack.gateway.gateway.watcher.request_reload()
        async with asyncio.timeout(60):
            while (await stack.client.models.list()).data[-1].id != "plain":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        first = await stack.client.responses.create(model="auto", input="Rome?", store=True)
        stored = await stack.client.responses.retrieve(first.id)
        assert (stored.id, stored.output) == (first.id, first.output)
        reference: Any = {"type": "item_reference", "id": said["id"]}
        await stack.client.responses.create(model="auto", input=[reference, {"role": "user", "content": "So?"}])
        assert target.bodies[-1]["input"][0]["content"][0]["text"] == "Let me see."
        async with stack.client.responses.stream(
            model="auto", input="So?", previous_response_id=first.id, store=True
        ) as stream:
            last = await stream.get_final_response()
        assert last.previous_response_id == first.id
        assert [item["type"] for item in target.bodies[-1]["input"]] == ["message", "reasoning", "message", "message"]
        assert "previous_response_id" not in target.bodies[-1]
        assert all(body["store"] is False for body in target.bodies)
        assert (await stack.client.responses.retrieve(last.id)).previous_response_id == first.id

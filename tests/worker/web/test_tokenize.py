"""The number of prompt tokens of a chat, as the chat itself reports it."""

from typing import Any

import pytest

from tests.worker.serving import MODEL, serving, toy_model

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "The brown fox"}]},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "é☃" * 9}]},
    ],
)
async def test_the_count_is_the_usage_of_the_answer(body: dict[str, Any]) -> None:
    async with serving(toy_model()) as served:
        counted = await served.client.post("/tokenize", json={"model": MODEL, **body})
        answer = await served.client.post("/v1/chat/completions", json={"model": MODEL, "max_tokens": 4, **body})
    assert counted.status_code == 200, counted.text
    assert counted.json()["count"] == answer.json()["usage"]["prompt_tokens"]
    assert counted.json()["max_model_len"] > 0


async def test_a_prompt_beyond_the_context_is_counted_too() -> None:
    async with serving(toy_model()) as served:
        messages = [{"role": "user", "content": "x" * 100_000}]
        counted = await served.client.post("/tokenize", json={"model": MODEL, "messages": messages})
        assert counted.json()["count"] >= 100_000 > counted.json()["max_model_len"]


async def test_an_invalid_chat_is_refused_as_a_chat_would_be() -> None:
    async with serving(toy_model()) as served:
        refused = await served.client.post("/tokenize", json={"model": MODEL, "messages": []})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
        unknown = await served.client.post(
            "/tokenize", json={"model": "unknown", "messages": [{"role": "user", "content": "x"}]}
        )
        assert unknown.status_code == 404
        assert (await served.client.get("/tokenize")).status_code == 405

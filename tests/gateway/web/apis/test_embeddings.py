"""Requests for embeddings: what is checked, and that they pass through the pipeline unchanged."""

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.enums import Capability, TargetApi
from gateway.errors import BadRequest
from gateway.types import Query
from gateway.web.apis.embeddings import MAX_INPUTS, parse_embeddings
from tests.gateway.serving import fake_server

PATH = "/v1/embeddings"


def parse(**fields: Any) -> Query:
    return parse_embeddings(orjson.dumps({"model": "auto", **fields}), {}, now_s=5.0, key=None)


@pytest.mark.parametrize(
    ("given", "inputs", "chars"),
    [("abc", 1, 3), (["abc"], 1, 3), (["a", "bc"], 2, 3), ([1, 2], 1, 8), ([[1, 2], [3]], 2, 12), (["a", [3]], 2, 5)],
)
def test_every_form_of_input_is_counted(given: Any, inputs: int, chars: int) -> None:
    query = parse(input=given, dimensions=256)
    assert (query.beyond_chat.inputs, query.beyond_chat.dimensions, query.prompt_chars) == (inputs, 256, chars)
    assert query.beyond_chat.api is TargetApi.EMBEDDINGS
    assert query.needs == {Capability.EMBEDDINGS}


def test_the_body_is_kept_and_privacy_is_read() -> None:
    body = {"model": "auto", "input": ["a"], "encoding_format": "base64", "metadata": {"private": True}, "user": "u"}
    query = parse(**body)
    assert orjson.loads(query.body) == body
    assert query.private


@pytest.mark.parametrize("value", [False, None])
def test_a_target_is_not_sent_that_nothing_streams(value: bool | None) -> None:
    query = parse(input="a", stream=value)
    assert not query.stream
    assert orjson.loads(query.body) == {"model": "auto", "input": "a"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [1.5]}, "input[0]"),
        ({"input": ["a", []]}, "input[1]"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "model": ""}, "model"),
        ({"input": "a", "metadata": 3}, "metadata"),
        ({"input": "a", "stream": True}, "stream"),
        ({"input": "a", "stream": 1}, "stream"),
    ],
)
def test_an_error_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    assert caught.value.param == param


POLICY = """
version: 1
aliases: ["text-embedding-*"]
targets:
  few:
    {kind: openai, capabilities: [embeddings], url: "%s", model: e, location: in_cluster, max_inputs: 1, dimensions: 2}
  many: {kind: openai, capabilities: [embeddings, chat], url: "%s/v1", model: e2, location: external}
  chat: {kind: openai, capabilities: [chat], url: "%s", model: m, location: external}
routes:
  - {name: embeddings, when: {model: "text-embedding-*"}, use: few, fall_back: [chat, many]}
  - {name: default, use: chat}
"""


async def embed(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vectors = [[float(len(text)), 0.1] for text in texts]
    if body.get("encoding_format") == "base64":
        encoded: list[Any] = [base64.b64encode(struct.pack("<2f", *vector)).decode() for vector in vectors]
    else:
        encoded = vectors
    data = [{"object": "embedding", "index": number, "embedding": each} for number, each in enumerate(encoded)]
    return web.json_response(
        {"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    )


@pytest.fixture
async def gateway(serving: Any) -> AsyncIterator[Any]:
    async with (
        fake_server(embed) as few,
        fake_server(embed) as many,
        serving(POLICY % (few.url, many.url, many.url)) as running,
    ):
        running.few, running.many = few, many
        yield running


async def ask(gateway: Any, **fields: Any) -> tuple[int, dict[str, str], Any]:
    return await gateway.ask({"model": "text-embedding-3-small", **fields}, path=PATH)  # type: ignore[no-any-return]


@pytest.mark.anyio
async def test_an_embedding_passes_with_its_explanation_and_its_usage(gateway: Any) -> None:
    """As the code indexes of Roo and Kilo ask for it."""
    status, headers, told = await ask(gateway, input=["abc"], encoding_format="base64")
    assert (status, headers["x-twolane-attempts"]) == (200, "few=ok")
    assert struct.unpack("<2f", base64.b64decode(told["data"][0]["embedding"]))[0] == 3.0
    assert gateway.few.paths == [PATH]
    assert gateway.few.bodies == [{"model": "e", "input": ["abc"], "encoding_format": "base64"}]
    url = f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}"
    async with gateway.client.get(url) as response:
        assert (await response.json())["input_tokens"] == 7


@pytest.mark.anyio
@pytest.mark.parametrize("fields", [{"input": ["a", "b"]}, {"input": "a", "dimensions": 3}])
async def test_a_target_with_lower_limits_is_skipped(gateway: Any, fields: dict[str, Any]) -> None:
    status, headers, told = await ask(gateway, **fields)
    assert (status, headers["x-twolane-attempts"]) == (200, "few=unsupported,chat=unsupported,many=ok")
    assert len(told["data"]) == (2 if isinstance(fields["input"], list) else 1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "param"), [({"input": ["a", "b"]}, "input"), ({"input": "a", "dimensions": 3}, "dimensions")]
)
async def test_an_error_says_what_the_only_target_takes(gateway: Any, fields: dict[str, Any], param: str) -> None:
    status, _, told = await ask(gateway, model="few", **fields)
    assert (status, told["error"]["param"], told["error"]["code"]) == (400, param, "unsupported")
    assert "at most" in told["error"]["message"]


@pytest.mark.anyio
async def test_another_target_embeds_when_the_first_answers_nonsense(gateway: Any) -> None:
    async def nonsense(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": []})

    gateway.few.answer = nonsense
    status, headers, _ = await ask(gateway, input="a")
    assert (status, headers["x-twolane-target"]) == (200, "many")


@pytest.mark.anyio
async def test_a_private_embedding_stays_in_the_cluster(gateway: Any) -> None:
    status, _, _ = await ask(gateway, input=["a", "b"], metadata={"private": True})
    assert status == 400
    assert gateway.many.bodies == []

"""The page on compatibility covers the APIs and their parameters, and says what a running gateway does."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from openai.types import completion_create_params, decision_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.requests.api_support import capabilities_of
from docs.compatibility import (
    CALLS,
    GATEWAY,
    IGNORED,
    LEFT_OUT,
    NONE,
    PASSED,
    REFUSED,
    RESPONSES,
    SKIPPED,
    cells_of,
    targets_of,
)
from docs.compatibility_requests import SURFACES, Surface
from gateway.beyond_chat import MESSAGES_PATH
from gateway.errors import InvalidField
from gateway.parameters import PARAMETERS
from gateway.types import Call, Query
from gateway.upstreams.request_body import body_for
from gateway.web.apis.table import APIS
from tests.gateway.serving import (
    FakeServer,
    RealGateway,
    completion,
    fake_server,
    real_gateway,
    start_stream,
    until_known,
)

BY_PATH = {surface.path: surface for surface in SURFACES}
SDK = {
    "/v1/chat/completions": chat_create_params.CompletionCreateParamsBase,
    "/v1/responses": response_create_params.ResponseCreateParamsBase,
    "/v1/completions": completion_create_params.CompletionCreateParamsBase,
    "/v1/decisions": decision_create_params.DecisionCreateParams,
    "/v1/embeddings": embedding_create_params.EmbeddingCreateParams,
}
ENGINES = ("vllm_diffusion", "sglang_diffusion", "vllm", "sglang", "llama_cpp", "openai")
READY = {"state": "ready", "predicted_wait_ms": 0}
WORKER = {"data": [{"id": "m", "twolane": {"capabilities": dict(capabilities_of(DecodingMode.DIFFUSION))}}]}


def test_every_api_is_on_the_page() -> None:
    assert set(BY_PATH) == set(APIS) - {f"{MESSAGES_PATH}/count_tokens"}


@pytest.mark.parametrize("path", SDK)
def test_every_parameter_of_openai_s_client_is_on_the_page(path: str) -> None:
    known = {"model", *BY_PATH[path].request, *BY_PATH[path].parameters}
    assert SDK[path].__annotations__.keys() - known == set()


def test_decisions_refuse_every_field_that_the_page_does_not_list() -> None:
    surface = BY_PATH["/v1/decisions"]
    everywhere = {name for each in SURFACES for name in each.parameters} | PARAMETERS.keys() | {"invented"}
    unlisted = everywhere - surface.parameters.keys() - surface.request.keys()
    assert {"temperature", "max_tokens", "tools"} <= unlisted
    for name in unlisted:
        with pytest.raises(InvalidField) as caught:
            read(surface, **{name: None})
        assert caught.value.param == name


def test_decisions_take_every_field_that_the_page_lists() -> None:
    surface = BY_PATH["/v1/decisions"]
    values = {name: each.value for name, each in surface.parameters.items()} | {"stream": False}
    assert not read(surface, **values).stream


def test_the_confidence_that_a_question_needs_is_not_sent() -> None:
    question = {"type": "predicate", "instructions": "Is it?", "min_confidence": 0.9}
    query = read(BY_PATH["/v1/decisions"], questions=[question])
    for name, (target, capabilities) in targets_of().items():
        assert b"min_confidence" not in body_for(Call(target=target, query=query), capabilities), name


def read(surface: Surface, **fields: Any) -> Query:
    body = orjson.dumps({"model": "auto", **surface.request, **fields})
    return APIS[surface.path].read(body, {}, now_s=0.0, key=None)


def policy(url: str) -> str:
    common = {"kind": "openai", "url": url, "model": "m", "location": "external"}
    targets: dict[str, Any] = {name: {**common, "engine": name} for name in ENGINES}
    targets["worker"] = {**common, "kind": "worker"}
    targets["openai_responses"] = {**common, "engine": "openai", "responses": True}
    return orjson.dumps({"version": 1, "targets": targets, "routes": [{"name": "default", "use": "openai"}]}).decode()


async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Something that every API reads; what is checked is what was asked."""
    asks = '"1":{' in orjson.dumps(body.get("response_format", {})).decode()  # a decision's first question
    text = '{"1": "yes"}' if asks else '{"a": 1}'
    if request.path.endswith("/decisions"):
        return web.json_response({"answers": [{"type": "predicate", "name": None, "probability": 0.9}], "model": "m"})
    if body.get("stream"):
        stream = await start_stream(request)
        await stream.write(b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n')
        return stream
    if request.path.endswith("/embeddings"):
        return web.json_response({"data": [{"index": 0, "embedding": [0.5]}]})
    if request.path.endswith("/responses"):
        content = [{"type": "output_text", "text": text}]
        return web.json_response({"status": "completed", "output": [{"type": "message", "content": content}]})
    whole = completion(text)
    whole["choices"][0]["text"] = text
    return web.json_response(whole)


@pytest.mark.anyio
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.title)
async def test_a_running_gateway_does_what_the_page_says(surface: Surface, tmp_path: Path) -> None:
    kinds = [kind for kind in targets_of() if kind != "litellm"]
    async with (
        fake_server(answer, health=READY, models=WORKER) as target,
        real_gateway(tmp_path, policy(target.url)) as gateway,
    ):
        await until_known(gateway, "worker")
        assert not await differences(surface, kinds, target, gateway)


async def differences(surface: Surface, kinds: list[str], target: FakeServer, gateway: RealGateway) -> list[Any]:
    """The cells of these columns that the gateway does not do."""
    wrong = []
    for name, cells in cells_of(surface).items():
        parameter = surface.parameters[name]
        for kind in (each for each in cells if each in kinds):
            target.bodies.clear()
            model = "openai_responses" if kind == RESPONSES else kind
            body = {"model": model, **surface.request, **parameter.beside, name: parameter.value}
            status, headers, answered = await gateway.ask(body, path=surface.path)
            if status == 400:  # of two fields that the target lacks, it names one
                assert cells[kind] == NONE or any(each in str(answered) for each in (name, *parameter.beside)), answered
            if not does(cells[kind], name, parameter.value, target.bodies, status, headers):
                wrong.append((name, kind, cells[kind], status, answered, list(target.bodies)))
    return wrong


def does(cell: str, name: str, value: Any, sent: list[dict[str, Any]], status: int, headers: Any) -> bool:
    """Whether the target was sent, and the client was answered, what the cell says."""
    if cell in (SKIPPED, REFUSED, NONE):
        return status == 400 and not sent
    if cell == CALLS:
        return len(sent) == value
    if len(sent) != 1:
        return False
    (body,) = sent
    if cell == PASSED:
        return bool(body.get(name) == value)
    if cell in (LEFT_OUT, GATEWAY, IGNORED):
        is_named = name in headers.get("x-twolane-ignored", "").split(",")
        return body.get(name) in (None, False, {"include_usage": True}) and is_named is (cell == IGNORED)
    return any(f"`{field}`" in cell for field in body)

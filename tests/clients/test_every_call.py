"""OpenAI's own clients for Python and Node, as released, before a gateway and a worker with the shipped checkpoint."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_worker.models.loader import LoadOptions, load
from tests.clients.environments import OPENAI_CLIENTS, command
from tests.clients.test_openai_clients import answers_of
from tests.clients.weather_model import VECTORS, WeatherModel
from tests.gateway.serving import fake_server, real_gateway, until_known
from tests.worker.serving import listening
from twolane.demo.prompts import ANNA, ANNAS_ORDER, CORRECTED, ORDER_SCHEMA, QUESTIONS, SLOPPY

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]
CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "twolane-tiny"
SHIPPED = """
version: 1
targets:
  fast: {kind: worker, url: "%s", model: diffusion, location: in_cluster}
  embedder: {kind: openai, capabilities: [embeddings], url: "%s", model: e, location: external}
routes: [{name: default, use: fast}]
"""


@pytest.fixture(scope="module")
async def shipped(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A gateway before a worker with the shipped checkpoint; only embeddings come from elsewhere."""
    model: Any = load(CHECKPOINT, LoadOptions(threads=1))
    async with listening(model) as worker, fake_server(WeatherModel().answer) as embedder:
        urls = (str(worker.client.base_url).rstrip("/"), embedder.url)
        async with real_gateway(tmp_path_factory.mktemp("shipped"), SHIPPED % urls) as gateway:
            await until_known(gateway, "fast")
            yield gateway.url


def calls() -> dict[str, dict[str, Any]]:
    """One of each kind, with the checkpoint's own tasks."""
    form = {"format": {"type": "json_schema", "name": "order", "schema": ORDER_SCHEMA}}
    responses = {
        "whole": {"input": SLOPPY},
        "streamed": {"input": SLOPPY},
        "structured": {"input": ANNA, "text": form},
        "structured stream": {"input": ANNA, "text": form},
    }
    fields = {"prompt": "def add(a, b):\n    return ", "max_tokens": 8}
    chat = {"model": "auto", "text": SLOPPY}
    return {
        **{
            name: {"api": "responses stream" if "stream" in name else "responses", "fields": {"model": "auto", **asked}}
            for name, asked in responses.items()
        },
        "chat": {**chat, "stream": False},
        "chat stream": {**chat, "stream": True},
        "completion": {"model": "fast", "stream": False, "fields": fields},
        "fill in": {"api": "fill in", "fields": {"model": "fast", "suffix": "\n", **fields}},
        "decision": {"api": "decisions", "fields": {"model": "auto", "input": CORRECTED, "questions": QUESTIONS}},
        "embeddings": {"api": "embeddings", "fields": {"model": "embedder", "input": ["a", "b"]}},
        "models": {"api": "models", "fields": {}},
    }


@pytest.mark.parametrize("client", OPENAI_CLIENTS)
async def test_a_client_makes_every_kind_of_call_before_the_shipped_checkpoint(client: str, shipped: str) -> None:
    line = await asyncio.to_thread(command, client)
    asked = calls()
    seen = dict(zip(asked, await answers_of(line, shipped, list(asked.values())), strict=True))
    text = "fix broken token in api"
    assert seen["whole"] == ["completed", text]
    assert seen["streamed"] == ["completed", text, text]
    status, *texts = seen["structured"] + seen["structured stream"][1:]
    assert (status, [json.loads(each) for each in texts]) == ("completed", [ANNAS_ORDER] * 3)
    assert [seen["chat"], seen["chat stream"]] == [{"text": text, "calls": [], "finished": True, "error": ""}] * 2
    assert (seen["completion"]["finished"], seen["completion"]["error"]) == (True, "")
    assert seen["completion"]["text"]  # of any kind: the checkpoint was not trained on code
    assert seen["fill in"][0] == seen["fill in"][1] != ""
    day, angry = seen["decision"]
    assert (day["choice"], day["name"], angry["name"]) == ("monday", "day", "angry")
    assert sum(each["probability"] for each in day["probabilities"]) == pytest.approx(1)
    assert 0 < angry["probability"] < 1
    assert seen["embeddings"] == VECTORS
    assert seen["models"] == ["auto", "fast", "embedder"]

"""A worker under many random schemas: completed responses are valid, and rejected requests state the reason."""

import asyncio
import contextlib
import json
import random
from pathlib import Path
from typing import Any, Final

import httpx
import jsonschema
import pytest

from twolane.process.children import Child, twolane_command
from twolane.process.flags import free_port

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DATE: Final = {"type": "string", "format": "date"}
TREE: Final = {
    "$defs": {"node": {
        "type": "object", "required": ["v"],
        "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    }},
    "$ref": "#/$defs/node",
}  # fmt: skip
SCHEMAS: Final[list[Any]] = [
    {},
    {"type": "boolean"},
    {"type": "integer", "minimum": -3, "exclusiveMaximum": 12},
    {"type": "number", "multipleOf": 0.25, "maximum": 2},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
    {"type": "string", "pattern": "^(a+)+$", "maxLength": 20},
    {"enum": ["red", 3, None, {"deep": ["er"]}]},
    {"const": {"k": "näïve \u2603 \"quoted\" \\ \n"}},
    {"type": ["string", "null"]},
    DATE,
    {"type": "array", "items": DATE, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 2, "maxItems": 3},
    {"type": "array", "contains": {"const": 7}, "items": {"type": "integer"}, "maxItems": 3},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
    {"type": "object", "patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": False},
    {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "boolean"}},
    {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]},
    {"anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"type": "null"}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    {"type": "string", "enum": ["a", "b", "c"], "not": {"const": "b"}},
    {"if": {"type": "integer"}, "then": {"minimum": 5}, "else": {"type": "null"}},
    TREE,
    {"type": "object", "properties": {f"p{n}": {"type": "boolean"} for n in range(40)}, "required": ["p3"]},
    {"type": "object", "properties": {"\u00fc \"key\"": {"type": "null"}}, "required": ["\u00fc \"key\""]},
    # Unsatisfiable, unknown to the draft, and external references.
    {"type": "integer", "minimum": 5, "maximum": 4},
    {"type": "integers"},
    {"$ref": "http://elsewhere.test/schema.json"},
    {"type": "string", "pattern": "(?<=a)b"},
]  # fmt: skip


async def test_completed_responses_are_valid_and_rejections_state_the_reason(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    line = ("--checkpoint", str(ROOT / "checkpoints" / "twolane-tiny"), "--port", str(port), "--threads", "1")
    rng = random.Random(5)
    finished = 0
    async with Child(twolane_command("worker", line, environment={}, logs=tmp_path)) as worker:
        await worker.serve(f"{url}/health", within_s=300)
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            asks = [random_request(rng, schema, number) for number, schema in enumerate(SCHEMAS * 3)]
            gate = asyncio.Semaphore(8)

            async def one(schema: Any, body: dict[str, Any], gives_up: bool) -> bool:
                async with gate:
                    if gives_up:
                        with contextlib.suppress(TimeoutError, httpx.HTTPError):
                            async with asyncio.timeout(0.02):
                                await client.post("/v1/chat/completions", json=body)
                        return False
                    return await completed(client, schema, body)

            finished = sum(await asyncio.gather(*(one(*each) for each in asks)))
            async with asyncio.timeout(120):
                while (health := (await client.get("/health")).json())["running"] or health["waiting"]:  # noqa: ASYNC110 - state of another process
                    await asyncio.sleep(0.1)
        assert worker.is_running
    assert finished > 50


def random_request(rng: random.Random, schema: Any, number: int) -> tuple[Any, dict[str, Any], bool]:
    """A request, and whether its client disconnects at once; half are streams, a third decode left to right."""
    body = {
        "model": "diffusion:autoregressive" if number % 3 == 0 else "diffusion",
        "seed": number,
        "temperature": rng.choice([0.7, 1.0, 1.5]),
        "max_tokens": rng.choice([24, 64, 160]),
        "stream": number % 2 == 0,
        "messages": [{"role": "user", "content": rng.choice(["Extract the order as JSON: 3 red lamp", "Go on", "?"])}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    }
    return schema, body, number % 13 == 12


async def completed(client: httpx.AsyncClient, schema: Any, body: dict[str, Any]) -> bool:
    """Return whether it completed; fails if the response is not valid or an error has no reason."""
    answer = await client.post("/v1/chat/completions", json=body)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["code"] in ("unsupported_schema", "answer_does_not_fit", "invalid_output", "invalid_value"), error
        assert (answer.status_code == 400) == (error["code"] != "invalid_output"), answer.text
        return False
    text, reason = read_stream(answer.text) if body["stream"] else read_whole(answer.json())
    if reason == "stop":
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)(schema).validate(
            json.loads(text)
        )
    return reason == "stop"


def read_whole(answer: dict[str, Any]) -> tuple[str, str]:
    choice = answer["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def read_stream(body: str) -> tuple[str, str]:
    """Text and finish reason, or the code of an error within the stream."""
    text, reason = "", "none"
    for line in body.splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                return text, chunk["error"]["code"]
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                reason = choice["finish_reason"] or reason
    return text, reason

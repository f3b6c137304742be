"""Constraints over HTTP: enforced in both APIs and decoding modes, or refused by name."""

import json
import re
from typing import Any

import httpx
import pytest
import torch

from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.models.interface import CanvasContext
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.requests import DenoisingParams
from tests.worker import serving as workers
from tests.worker.serving import MODEL, READ, events, serving, toy_model, toy_tokenizer

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile and validate in processes, as the product does; other tests of the web layer use threads."""
    monkeypatch.setattr(workers, "compiling_in_threads", workers.compiling_in_processes)


ORDER = {
    "type": "object",
    "properties": {"item": {"type": "string", "minLength": 1, "maxLength": 8}, "count": {"type": "integer"}},
    "required": ["item", "count"],
    "additionalProperties": False,
}


class NoisyNet(ToyModel):
    """A model with a different output at every pass."""

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        like = super().denoise(canvas, soft, context)
        return 6 * torch.randn(like.shape, generator=torch.Generator().manual_seed(self.passes))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        like = super().logits(hidden)
        return 6 * torch.randn(like.shape, generator=torch.Generator().manual_seed(self.passes))


def noisy_net() -> NoisyNet:
    return NoisyNet(vocab_size=toy_tokenizer().size, denoising=DenoisingParams(canvas_length=16, steps=4))


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": value}}


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"])


def problem(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


@pytest.mark.parametrize("model", [MODEL, READ])
async def test_random_logits_satisfy_the_constraint(model: str) -> None:
    """Schema, object, expression, choice and template in one worker, together with an unconstrained row."""
    async with serving(noisy_net()) as served:
        order = json.loads(content(await served.ask(model=model, response_format=schema(ORDER), max_tokens=90)))
        assert isinstance(order["count"], int)
        assert 1 <= len(order["item"]) <= 8
        anything = await served.ask(model=model, response_format={"type": "json_object"}, max_tokens=90)
        assert isinstance(json.loads(content(anything)), dict)
        for asked, pattern in (
            ({"regex": "[A-Z]{3}-[0-9]+"}, "[A-Z]{3}-[0-9]+"),
            ({"choice": ["red", "green"]}, "red|green"),
            ({"template": {"text": "On {{day}}.", "holes": {"day": {"choice": ["Monday"]}}}}, r"On Monday\."),
        ):
            text = content(await served.ask(model=model, structured_outputs=asked, max_tokens=40))
            assert re.fullmatch(pattern, text), text


async def test_a_constraint_does_not_change_a_correct_answer() -> None:
    """The schema allows the model's own layout and text."""
    said = '{ "item": "tea",\n  "count": 3 }'
    async with serving(toy_model(said)) as served:
        assert content(await served.ask(response_format=schema(ORDER), max_tokens=90)) == said


async def test_raw_text_can_be_constrained_too() -> None:
    async with serving(noisy_net()) as served:
        body = {"model": MODEL, "prompt": "x", "structured_outputs": {"choice": ["red", "green"]}, "max_tokens": 20}
        response = await served.client.post("/v1/completions", json=body)
        assert response.json()["choices"][0]["text"] in ("red", "green")
        refused = await served.client.post("/v1/completions", json={**body, "suffix": "y"})
        assert problem(refused) == (400, "unsupported_parameter", "suffix")


async def test_a_stream_near_max_tokens_closes_in_time() -> None:
    async with serving(noisy_net()) as served:
        response = await served.ask(stream=True, response_format=schema(ORDER), max_tokens=30)
        *chunks, done = map(str, events(response.text))
        assert done == "[DONE]"
        choices = [choice for chunk in chunks for choice in json.loads(chunk)["choices"]]
        assert choices[-1]["finish_reason"] == "stop"
        assert set(json.loads("".join(choice["delta"].get("content", "") for choice in choices))) == {"item", "count"}


async def test_unsupported_constraints_are_refused_by_name() -> None:
    """The error names the field; its message names keyword and position."""
    lists = {"$id": "list", "$dynamicAnchor": "item", "type": "array", "items": {"$dynamicRef": "#item"}}
    names = {"$id": "names", "$dynamicAnchor": "item", "type": "string"}
    several = {"$id": "https://example.org/root", "$ref": "list", "$defs": {"list": lists, "names": names}}
    async with serving(toy_model()) as served:
        response = await served.ask(response_format=schema(several))
        assert problem(response) == (400, "unsupported_schema", "response_format")
        assert "(`$dynamicRef` at `#/$defs/list/items/$dynamicRef`)" in response.json()["error"]["message"]
        response = await served.ask(structured_outputs={"regex": "(x)\\1"})
        assert problem(response) == (400, "unsupported_schema", "structured_outputs.regex")
        response = await served.ask(structured_outputs={"regex": "("})
        assert response.json()["error"]["param"] == "structured_outputs.regex"
        response = await served.ask(response_format=schema(ORDER), max_tokens=10)
        assert problem(response) == (400, "answer_does_not_fit", "max_tokens")


@pytest.mark.parametrize("stream", [False, True])
async def test_checked_keywords_are_validated_before_the_first_byte(stream: bool) -> None:
    """If no valid answer can be generated, the response is an error, never an invalid answer."""
    distinct = schema({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2, "uniqueItems": True})
    same = schema({"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2, "uniqueItems": True})
    async with serving(toy_model("[1,1]")) as served:
        response = await served.ask(stream=stream, response_format=same)
        if response.status_code == 200:  # the automaton enforces it
            pytest.fail("choose another keyword for this test: " + response.text)
        assert problem(response)[:2] == (500, "invalid_output")
        assert served.model.passes >= 6, "several attempts of a canvas each"
    async with serving(toy_model("[1,2]")) as served:
        response = await served.ask(stream=stream, response_format=distinct)
        assert response.status_code == 200
        assert "[DONE]" in response.text or content(response) == "[1,2]"


async def test_the_same_constraint_is_compiled_once() -> None:
    async with serving(noisy_net()) as served:
        words, info = served.worker.serving_state.loaded()
        first = await served.ask(structured_outputs={"choice": ["a", "b"]}, max_tokens=9)
        assert first.status_code == 200
        one = Constraint(kind="choice", value=["a", "b"])
        constraint_service = served.worker.serving_state.constraint_service
        bound = [await constraint_service.bind(one, words.tokenizer, info) for _ in range(2)]
        assert bound[0].automaton is bound[1].automaton

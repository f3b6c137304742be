"""Constraint repair: only the invalid span of an answer is regenerated."""

import json
from typing import Any

import pytest

from tests.worker.constraint_service.test_service import schema
from tests.worker.serving import MODEL, READ, serving, toy_model

pytestmark = pytest.mark.anyio
PAIRS = {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
NOTE = {
    "type": "object",
    "properties": {"head": {"type": "string"}, "pair": PAIRS, "tail": {"enum": ["so", "no"]}},
    "required": ["head", "pair", "tail"],
    "additionalProperties": False,
}
ANSWER = '{"head":"as it was","pair":["x","x"],"tail":"so"}'
FIELDS: dict[str, Any] = {"response_format": schema(NOTE), "max_tokens": 160}


@pytest.mark.parametrize("model", [MODEL, READ])
@pytest.mark.parametrize("seed", range(3))
async def test_the_invalid_span_is_repaired_and_the_text_before_it_is_kept(model: str, seed: int) -> None:
    """With a deterministic model at temperature 0."""
    async with serving(toy_model(ANSWER)) as served:
        response = await served.ask(model=model, seed=seed, **FIELDS)
    assert response.status_code == 200, response.text
    text = response.json()["choices"][0]["message"]["content"]
    value = json.loads(text)
    assert text.startswith('{"head":"as it was","pair":[')
    assert sorted(value["pair"]) == ["x", "y"]
    assert value["tail"] in ("so", "no")


async def test_usage_counts_every_attempt() -> None:
    """Tokens and passes; the prompt is counted once."""
    async with serving(toy_model(ANSWER)) as served:
        free = (await served.ask(model=READ, max_tokens=160)).json()["usage"]
        passes = served.model.passes
        usage = (await served.ask(model=READ, seed=1, **FIELDS)).json()["usage"]
        assert usage["prompt_tokens"] == free["prompt_tokens"]
        assert usage["completion_tokens"] > free["completion_tokens"]
        assert usage["diffusion"]["forward_passes"] == served.model.passes - passes


@pytest.mark.parametrize("model", [MODEL, READ])
async def test_a_stream_shows_the_mended_answer_alone(model: str) -> None:
    async with serving(toy_model(ANSWER)) as served:
        response = await served.ask(model=model, stream=True, seed=1, **FIELDS)
    chunks = [json.loads(part[6:]) for part in response.text.split("\n\n") if part and part != "data: [DONE]"]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert sorted(json.loads(text)["pair"]) == ["x", "y"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("model", [MODEL, READ])
async def test_attempts_are_few_and_none_repeats_another(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    async with serving(toy_model(ANSWER)) as served:

        async def never(_constraint: object, text: str, _owner: str) -> str:
            texts.append(text)
            return "$.pair: wrong"

        monkeypatch.setattr(served.worker.serving_state.constraint_service._pool, "validate", never)
        response = await served.ask(model=model, **FIELDS)
        assert served.engine.status().running == 0
    assert (response.status_code, response.json()["error"]["code"]) == (500, "invalid_output")
    assert 2 <= len(texts) <= 6
    assert len(set(texts)) == len(texts)

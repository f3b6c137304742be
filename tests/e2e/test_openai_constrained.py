"""The official client requests objects, choices and expressions from the worker, whatever the model would generate."""

import math
import re
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

from diffusion_worker.types.requests import DenoisingParams
from tests.worker.serving import MODEL, READ, listening, toy_model

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    """The requested object."""

    item: Literal["tea", "mint tea", "coffee"]
    count: int
    note: str | None


@pytest.mark.parametrize("model", [MODEL, READ])
async def test_the_official_client_parses_the_requested_object(model: str) -> None:
    """The model echoes the prompt, which is not JSON."""
    messages = [{"role": "user", "content": "mint tea, two of them"}]
    async with listening(toy_model()) as served, openai.DefaultAsyncHttpx2Client(trust_env=False) as direct:
        client = openai.AsyncOpenAI(
            base_url=f"{served.client.base_url}/v1", api_key="none", max_retries=0, http_client=direct
        )
        parsed = await client.chat.completions.parse(
            model=model,
            messages=messages,  # type: ignore[arg-type]  # plain dictionaries
            response_format=Order,
            max_tokens=150,
        )
        assert isinstance(parsed.choices[0].message.parsed, Order)
        assert parsed.choices[0].finish_reason == "stop"
        coded = await client.chat.completions.create(
            model=model,
            messages=messages,  # type: ignore[arg-type]
            max_tokens=20,
            extra_body={"structured_outputs": {"regex": "[A-Z]{2}-[0-9]{2}"}},
        )
        assert re.fullmatch("[A-Z]{2}-[0-9]{2}", coded.choices[0].message.content or "")
        with pytest.raises(openai.BadRequestError, match="shortest answer"):
            await client.chat.completions.parse(
                model=model,
                messages=messages,  # type: ignore[arg-type]
                response_format=Order,
                max_tokens=5,
            )


@pytest.mark.parametrize("model", [MODEL, READ])
async def test_the_official_client_streams_an_object_that_closes_in_time(model: str) -> None:
    """With few more tokens than the shortest valid object needs."""
    messages = [{"role": "user", "content": "mint tea, two of them"}]
    async with listening(toy_model()) as served, openai.DefaultAsyncHttpx2Client(trust_env=False) as direct:
        client = openai.AsyncOpenAI(
            base_url=f"{served.client.base_url}/v1", api_key="none", max_retries=0, http_client=direct
        )
        for room in (40, 45, 60):
            async with client.chat.completions.stream(
                model=model,
                messages=messages,  # type: ignore[arg-type]
                response_format=Order,
                max_tokens=room,
            ) as stream:
                final = await stream.get_final_completion()
            assert final.choices[0].finish_reason == "stop"
            assert isinstance(final.choices[0].message.parsed, Order)


class Mood(BaseModel):
    """An object with a small number of values."""

    mood: Literal["good", "bad"]
    sure: bool


async def test_the_official_client_reads_label_probabilities() -> None:
    """For a choice, and for a model of literals."""
    messages = [{"role": "user", "content": "well?"}]
    model = toy_model(denoising=DenoisingParams(canvas_length=40, steps=16))
    async with listening(model) as served, openai.DefaultAsyncHttpx2Client(trust_env=False) as direct:
        client = openai.AsyncOpenAI(
            base_url=f"{served.client.base_url}/v1", api_key="none", max_retries=0, http_client=direct
        )
        chosen = await client.chat.completions.create(
            model=MODEL,
            messages=messages,  # type: ignore[arg-type]
            logprobs=True,
            top_logprobs=2,
            extra_body={"structured_outputs": {"choice": ["yes", "no"]}},
        )
        assert chosen.choices[0].logprobs is not None
        [entry] = chosen.choices[0].logprobs.content or []
        assert entry.token == chosen.choices[0].message.content
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) == pytest.approx(1.0)
        parsed = await client.chat.completions.parse(
            model=MODEL,
            messages=messages,  # type: ignore[arg-type]
            response_format=Mood,
            logprobs=True,
        )
        assert isinstance(parsed.choices[0].message.parsed, Mood)
        with pytest.raises(openai.BadRequestError, match="'logprobs' requires a choice"):
            await client.chat.completions.create(model=MODEL, messages=messages, logprobs=True)  # type: ignore[arg-type]

"""A checkpoint folder like the released one's, but small and random, from loading to an answer."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from diffusion_worker.app import build_worker
from diffusion_worker.types.requests import DenoisingParams
from tests.worker.released import END_IDS, released_tokenizer, save_released_words
from tests.worker.serving import CHAT, MODEL, toy_settings

pytestmark = pytest.mark.anyio

GENERATION = {
    "max_new_tokens": 256,
    "max_denoising_steps": 3,
    "t_min": 0.4,
    "t_max": 0.8,
    "stability_threshold": 1,
    "confidence_threshold": 0.005,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
    "eos_token_id": list(END_IDS),
    "pad_token_id": 0,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_library_model: Any) -> Path:
    """Weights may have more rows than the tokenizer has words, as the released ones do."""
    path = tmp_path_factory.mktemp("released")
    make_library_model(vocab=released_tokenizer().size + 5, experts=4, dtype=torch.bfloat16).save_pretrained(path)
    (path / "generation_config.json").write_text(json.dumps(GENERATION))
    save_released_words(path)
    return path


async def test_such_a_folder_is_loaded_asked_and_answers(folder: Path) -> None:
    """Params and end tokens come from its files, prompts from its template; the form of an answer is correct for any
    output of the random model."""
    worker = build_worker(toy_settings(checkpoint=str(folder), device="cpu", experts="grouped_mm"))
    worker.serving_state.engine.start()
    transport = httpx.ASGITransport(app=worker.app)
    try:
        await worker.serving_state.engine.ready()
        info = worker.serving_state.engine.info
        assert info is not None
        assert (info.end_ids, info.pad_id, info.denoising) == (END_IDS, 0, DenoisingParams(steps=3, canvas_length=12))
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": "weather?"}],
                "tools": [TOOL],
                "reasoning_effort": "high",
                "max_tokens": 30,
                "seed": 1,
            }
            answers = [(await client.post(CHAT, json=body)).json() for _ in range(2)]
    finally:
        await worker.serving_state.engine.close()
    first, second = (answer["choices"][0] for answer in answers)
    assert first["message"] == second["message"], "the same seed"
    assert first["finish_reason"] in ("stop", "length", "tool_calls")
    assert 1 <= answers[0]["usage"]["completion_tokens"] <= 30

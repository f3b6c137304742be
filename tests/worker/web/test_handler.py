"""Handler: sent text never changes, even if the model changes its output later."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.models.toy import ToyModel
from diffusion_worker.web.response_builder import ResponseBuilder
from tests.worker.serving import events, serving, toy_model, toy_tokenizer

TEXTS = st.text(alphabet="ab é🙂日", min_size=0, max_size=24)


def fickle_model(texts: Sequence[str], every: int, pace: int) -> ToyModel:
    """It is sure of one text, and a few passes later as sure of another."""
    model = toy_model(pace=pace)
    answers = [toy_tokenizer().encode_plain(text) for text in texts]
    model.script = lambda _prompt: answers[model.passes // every % len(answers)]
    return model


async def streamed(model: ToyModel, **fields: Any) -> list[dict[str, Any]]:
    async with serving(model) as served:
        options = {"include_drafts": True}
        response = await served.ask(stream=True, stream_options=options, seed=1, **fields)
        *chunks, done = events(response.text)
        assert done == "[DONE]"
        assert (served.engine.status().running, served.engine.status().waiting) == (0, 0)
    return [json.loads(chunk) for chunk in chunks]


@pytest.mark.slow
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4),
    every=st.integers(1, 5),
    pace=st.integers(1, 16),
    stop=st.sampled_from([None, "ab", "🙂"]),
)
def test_every_draft_starts_with_the_sent_text(texts: list[str], every: int, pace: int, stop: str | None) -> None:
    """With a model that changes its output on one canvas."""
    sent = ""
    for chunk in asyncio.run(streamed(fickle_model(texts, every, pace), stop=stop, max_tokens=16)):
        if "twolane" in chunk:
            assert chunk["twolane"]["draft"].startswith(sent)
        else:
            sent += "".join(choice["delta"].get("content", "") for choice in chunk["choices"])
    assert stop is None or stop not in sent


@pytest.mark.slow
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    every=st.integers(1, 9),
    stop=st.sampled_from([None, "ab", "b é", "🙂日"]),
)
def test_streamed_pieces_make_up_the_complete_text(texts: list[str], every: int, stop: str | None) -> None:
    """Over several canvases, with characters and stop strings across pieces."""
    taken: list[int] = []
    take = ResponseBuilder.add

    def recorded(self: ResponseBuilder, block: Any) -> Any:
        taken.extend(block.ids)
        return take(self, block)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResponseBuilder, "add", recorded)
        chunks = asyncio.run(streamed(fickle_model(texts, every, 8), stop=stop, max_tokens=60))
    whole = b"".join(map(toy_tokenizer().token_bytes, taken)).decode(errors="replace")
    sent = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert sent == (whole if stop is None else whole.partition(stop)[0])

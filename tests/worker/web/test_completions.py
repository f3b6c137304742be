"""Text completions: raw text is continued, gaps are filled, and `echo` returns the surrounding text."""

import json
import math
from typing import Any

import openai
import pytest

from tests.worker.serving import MODEL, READ, VERIFIED, Served, events, listening, serving, toy_model, toy_tokenizer

pytestmark = pytest.mark.anyio
PATH = "/v1/completions"
GAP = "brown é🙂 fox " * 3  # several canvases, with characters across their boundaries


async def complete(served: Served, prompt: Any = "The ", **fields: Any) -> Any:
    return await served.client.post(PATH, json={"model": MODEL, "prompt": prompt, **fields})


async def text_of(served: Served, prompt: Any = "The ", **fields: Any) -> str:
    """Whole and streamed must agree."""
    whole = await complete(served, prompt, **fields)
    assert whole.status_code == 200, whole.text
    streamed = await complete(served, prompt, stream=True, **fields)
    *chunks, done = events(streamed.text)
    assert done == "[DONE]"
    parts = [json.loads(chunk)["choices"][0] for chunk in chunks]
    [choice] = whole.json()["choices"]
    assert "".join(part["text"] for part in parts) == choice["text"]
    assert [part["finish_reason"] for part in parts] == [*[None] * (len(parts) - 1), choice["finish_reason"]]
    return str(choice["text"])


@pytest.mark.parametrize("model", [MODEL, READ])
async def test_raw_text_is_continued(model: str) -> None:
    """Without a template: the model receives only the ids of the prompt."""
    async with serving(toy_model()) as served:  # repeats its prompt
        assert await text_of(served, "The brown fox", model=model) == "The brown fox"
        assert (await complete(served)).json()["usage"]["prompt_tokens"] == len("The ")


IDS = list(toy_tokenizer().encode_plain("abc"))


@pytest.mark.parametrize("prompt", ["abc", ["abc"], IDS, [IDS]])
async def test_a_prompt_is_text_or_ids_or_a_list_with_one_of_them(prompt: Any) -> None:
    """They mean the same text."""
    async with serving(toy_model()) as served:
        assert await text_of(served, prompt, echo=True) == "abcabc"


@pytest.mark.parametrize("suffix", ["", " jumps", "\n\tdüring ☃ a very long text behind the gap" * 4])
async def test_a_gap_is_filled_and_echo_returns_the_surrounding_text(suffix: str) -> None:
    """For any length of the suffix."""
    prompt = "x = [1,\r\n\u2028é "
    async with serving(toy_model(answer=GAP)) as served:
        fields = {"suffix": suffix, "max_tokens": 200}
        assert await text_of(served, prompt, **fields) == GAP
        assert await text_of(served, prompt, echo=True, **fields) == prompt + GAP + suffix
        assert await text_of(served, prompt, echo=True, stop="🙂", **fields) == prompt + "brown é" + suffix


async def test_a_gap_at_the_beginning_of_a_file_is_filled() -> None:
    async with serving(toy_model(answer=GAP)) as served:
        assert await text_of(served, "", suffix=" jumps", max_tokens=200, echo=True) == GAP + " jumps"


@pytest.mark.parametrize("suffix", ["", " jumps"])
async def test_a_completion_starts_from_a_predicted_text(suffix: str) -> None:
    """Also between two texts: where the model agrees with the prediction, one step per canvas is enough."""
    async with serving(toy_model(answer=GAP)) as served:
        fields = {"suffix": suffix, "max_tokens": 200}
        plain = (await complete(served, **fields)).json()
        predicted = (await complete(served, prediction={"type": "content", "content": GAP}, **fields)).json()
        assert predicted["choices"][0]["text"] == plain["choices"][0]["text"] == GAP
        assert predicted["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] == 0
        assert predicted["usage"]["diffusion"]["denoising_steps"] < plain["usage"]["diffusion"]["denoising_steps"]


async def test_the_response_has_openais_form() -> None:
    """Object, id and choice; the last chunk of a stream has the `diffusion` object."""
    async with serving(toy_model(answer="hello")) as served:
        body = (await complete(served)).json()
        assert (body["object"], body["id"][:5], body["model"]) == ("text_completion", "cmpl-", MODEL)
        assert body["choices"] == [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}]
        usage = {"include_usage": True}
        *_, finish, last, _done = events((await complete(served, stream=True, stream_options=usage)).text)
        assert json.loads(finish)["diffusion"] == body["usage"]["diffusion"]
        assert json.loads(last)["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": [True]}, "prompt", "invalid_type"),
        ({"prompt": [1, 1.5]}, "prompt", "invalid_type"),
        ({"prompt": [272]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": ["a", "b"]}, "prompt", "unsupported_parameter"),
        ({"prompt": [[20], [21]]}, "prompt", "unsupported_parameter"),
        ({"prompt": "x" * 5000}, "prompt", "context_length_exceeded"),
        ({"max_tokens": 5000}, "max_tokens", "context_length_exceeded"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"logprobs": 1, "echo": True, "max_tokens": 1}, "logprobs", "unsupported_parameter"),
        ({"logprobs": 21, "model": READ}, "logprobs", "invalid_value"),
        ({"logprobs": True, "model": READ}, "logprobs", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"top_p": 1.5}, "top_p", "invalid_value"),
        ({"logit_bias": {"272": 1}}, "logit_bias", "invalid_value"),
        ({"prediction": {"type": "content", "content": 5}}, "prediction.content", "invalid_type"),
        ({"prediction": {"type": "content", "content": "x"}, "model": READ}, "prediction", "unsupported_parameter"),
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"diffusion": {"anchor": 0.5}}, "diffusion.anchor", "invalid_value"),
        ({"suffix": 5}, "suffix", "invalid_type"),
        ({"echo": "yes"}, "echo", "invalid_type"),
        ({"suffix": "x", "model": READ}, "suffix", "unsupported_parameter"),
    ],
)
async def test_invalid_or_unsupported_fields_are_refused_by_name(fields: Any, param: str, code: str) -> None:
    async with serving(toy_model(max_context=4096)) as served:
        answer = await complete(served, **{"prompt": "The ", **fields})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


async def test_disabled_values_of_unsupported_fields_are_accepted() -> None:
    """OpenAI clients send default values."""
    off = {"n": 1, "best_of": 1, "logprobs": None, "echo": False, "suffix": None, "logit_bias": {}, "user": "u"}
    async with serving(toy_model(answer="hello")) as served:
        assert await text_of(served, top_p=1, presence_penalty=0, frequency_penalty=0, **off) == "hello"


async def test_the_openai_client_completes_and_fills() -> None:
    """With and without streaming, and with drafts, which it ignores."""
    async with listening(toy_model(answer="brown ")) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none", max_retries=0)
        async with client:
            fields: Any = {"model": MODEL, "prompt": "The ", "suffix": "fox"}
            whole = await client.completions.create(echo=True, **fields)
            assert whole.choices[0].text == "The brown fox"
            options: Any = {"include_drafts": True, "include_usage": True}
            stream = await client.completions.create(stream=True, stream_options=options, **fields)
            parts = [part async for part in stream]
    assert "".join(part.choices[0].text for part in parts if part.choices) == "brown "
    drafts = [part.model_extra["twolane"] for part in parts if "twolane" in (part.model_extra or {})]
    assert drafts
    assert drafts[0]["step"] == 1
    assert parts[-1].usage is not None


TEXT = "né🙂<eos>x"  # a token per byte


async def logprobs_of(served: Served, prompt: Any, **fields: Any) -> tuple[str, dict[str, list[Any]]]:
    """The text and the lists; whole and streamed must agree."""
    whole = await complete(served, prompt, **fields)
    assert whole.status_code == 200, whole.text
    [choice] = whole.json()["choices"]
    streamed = await complete(served, prompt, stream=True, **fields)
    parts = [json.loads(chunk)["choices"][0] for chunk in events(streamed.text)[:-1]]
    assert "".join(part["text"] for part in parts) == choice["text"]
    for name, values in choice["logprobs"].items():
        assert [each for part in parts for each in (part["logprobs"] or {}).get(name, ())] == values
    return choice["text"], choice["logprobs"]


@pytest.mark.parametrize("model", [READ, VERIFIED])
async def test_an_answer_has_openais_lists_of_log_probabilities(model: str) -> None:
    """With an offset for every token, also for those that are parts of characters, and for the end token."""
    async with serving(toy_model(answer=TEXT, confidence=0.9)) as served:
        text, lists = await logprobs_of(served, "a", model=model, logprobs=1)
    assert text == TEXT
    count = len(TEXT.encode()) + 1
    assert {name: len(values) for name, values in lists.items()} == dict.fromkeys(
        ("tokens", "token_logprobs", "top_logprobs", "text_offset"), count
    )
    assert lists["tokens"][:3] == ["n", "bytes:\\xc3", "bytes:\\xa9"]
    assert lists["text_offset"] == [0, 1, 1, 2, 2, 2, 2, *range(3, 3 + len("<eos>x") + 1)]
    assert all(math.exp(value) == pytest.approx(0.9) for value in lists["token_logprobs"])
    for token, value, top in zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True):
        assert top == {token: value}, "the most likely token is the one chosen"


@pytest.mark.parametrize("prompt", [TEXT, list(toy_tokenizer().encode_plain(TEXT))])
@pytest.mark.parametrize("fields", [{"model": READ, "max_tokens": 1}, {"model": VERIFIED}, {"max_tokens": 0}])
async def test_an_echoed_prompt_has_log_probabilities(prompt: Any, fields: dict[str, Any]) -> None:
    """As evaluation harnesses ask for them. Without an answer, in every decoding mode."""
    async with serving(toy_model(answer="yes")) as served:
        text, lists = await logprobs_of(served, prompt, echo=True, logprobs=1, **fields)
    answer = {1: "y", 0: ""}.get(fields.get("max_tokens"), "yes")
    assert text == TEXT + answer
    length = len(TEXT.encode())
    opening = len(toy_tokenizer().opening) if isinstance(prompt, str) else 0
    assert len(lists["tokens"]) == length + len(answer) + (answer == "yes")
    assert lists["text_offset"][:8] == [0, 1, 1, 2, 2, 2, 2, 3]
    assert lists["text_offset"][length : length + len(answer)] == list(range(len(TEXT), len(text)))
    unknown = [place for place, value in enumerate(lists["token_logprobs"]) if value is None]
    assert unknown == ([] if opening else [0])
    assert [place for place, top in enumerate(lists["top_logprobs"]) if top is None] == unknown
    pairs = zip(lists["top_logprobs"], lists["token_logprobs"], strict=True)
    assert all(max(top.values()) >= value for top, value in pairs if top)


async def test_a_harness_reads_the_likelihood_of_a_continuation() -> None:
    """As lm-evaluation-harness does: the values between the context and the token that is generated."""
    context, continuation = toy_tokenizer().encode_plain("The "), toy_tokenizer().encode_plain("fox")
    async with serving(toy_model(answer="")) as served:  # which ends at once
        fields = {"model": READ, "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234}
        body = (await complete(served, [[*context, *continuation]], **fields)).json()
    lists = body["choices"][0]["logprobs"]
    found = lists["token_logprobs"][len(context) : -1]
    assert lists["tokens"][len(context) : -1] == ["f", "o", "x"]
    assert len(found) == len(lists["top_logprobs"][len(context) : -1]) == 3
    assert all(value < 0 for value in found)


async def test_a_constrained_answer_keeps_the_log_probabilities_of_its_prompt() -> None:
    """Also if parts of the answer are generated again."""
    async with serving(toy_model(answer="yes")) as served:
        fields = {"structured_outputs": {"choice": ["yes", "no"]}, "model": VERIFIED}
        text, lists = await logprobs_of(served, "ab", echo=True, logprobs=0, **fields)
    assert text == "abyes"
    assert lists["tokens"][:5] == ["a", "b", "y", "e", "s"]

"""Chat requests: a body is parsed completely or refused with the name of the invalid field."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.errors import InvalidRequest
from diffusion_worker.text.messages import Message
from diffusion_worker.types.requests import Penalties, Truncation
from diffusion_worker.web.requests.api_support import CHAT, IGNORED
from diffusion_worker.web.requests.chat_request import ChatRequest, parse_chat
from diffusion_worker.web.requests.fields import MAX_DEPTH
from diffusion_worker.web.requests.request_params import Overrides, RequestParams

HELLO = [{"role": "user", "content": "hello"}]


def parse(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.status == 400
    assert caught.value.message.endswith(".")
    return caught.value


def schema_format(schema: object, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def test_a_minimal_request_has_openais_defaults() -> None:
    """Model and messages are sufficient."""
    assert parse() == ChatRequest(params=RequestParams(model="m"), messages=(Message(role="user", content="hello"),))


def test_every_supported_field_is_parsed() -> None:
    request = parse(
        max_completion_tokens=7,
        seed=-3,
        temperature=0,
        stop=["a", "b"],
        stream=True,
        stream_options={"include_usage": True, "include_drafts": True},
        n=1,
        prediction={"type": "content", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
        response_format=schema_format({"type": "object"}, strict=True, description="d"),
        diffusion={
            "steps": 4,
            "entropy_bound": 0.2,
            "confidence_threshold": 0.02,
            "t_min": 0.1,
            "t_max": 1,
            "canvas_length": 8,
            "anchor": 0.5,
            "deadline_ms": 50,
        },
    )
    params = RequestParams(
        model="m",
        max_tokens=7,
        seed=-3,
        temperature=0.0,
        stops=("a", "b"),
        is_stream=True,
        include_usage=True,
        include_drafts=True,
        overrides=Overrides(
            steps=4, entropy_bound=0.2, confidence_threshold=0.02, t_min=0.1, t_max=1.0, canvas_length=8
        ),
        anchor=0.5,
        deadline_ms=50.0,
        constraint=Constraint(kind="json_schema", value={"type": "object"}),
    )
    assert request == ChatRequest(params=params, messages=(Message(role="user", content="hello"),), prediction="xy")


def test_sampling_parameters_are_read_and_values_without_effect_are_none() -> None:
    """So that a request with them is treated as one without."""
    sampling = {"top_p": 0.9, "top_k": 40, "min_p": 0.05}
    penalties = {"presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1}
    params = parse(**sampling, **penalties, logit_bias={"7": 3, "5": -100, "6": 0}).params
    assert params.truncation == Truncation(top_p=0.9, top_k=40, min_p=0.05)
    assert params.penalties == Penalties(presence=0.5, frequency=-0.5, repetition=1.1, logit_bias=((5, -100), (7, 3)))
    off = {"top_p": 1, "top_k": -1, "min_p": 0, "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1}
    assert parse(**off, logit_bias={}) == parse()


@pytest.mark.parametrize("greedy", [{"top_k": 1}, {"top_p": 0}])
def test_truncation_to_the_most_likely_token_is_temperature_zero(greedy: dict[str, Any]) -> None:
    assert parse(**greedy, temperature=1.5) == parse(temperature=0)


def test_a_temperature_that_logits_cannot_be_divided_by_is_zero() -> None:
    assert parse(temperature=1e-40) == parse(temperature=0)


def test_null_counts_as_absent() -> None:
    """OpenAI clients send null for fields that are not set."""
    names = ["max_tokens", "seed", "temperature", "stop", "stream", "stream_options", "prediction", "response_format"]
    assert parse(**dict.fromkeys([*names, "tools", "n", "metadata", "logit_bias", "diffusion"])) == parse()


def test_text_parts_are_joined_and_messages_keep_their_order() -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": [], "reasoning_content": "hm"},
        {"role": "user", "content": ""},
    ]
    read = [(message.role, message.content) for message in parse(messages=messages).messages]
    assert read == [("system", "S"), ("user", "ab"), ("assistant", "c"), ("user", "")]


@pytest.mark.parametrize(
    "harmless",
    [
        {"metadata": {"task": "edit"}},
        {"user": "u"},
        {"store": True},
        {"service_tier": "auto"},
        {"safety_identifier": "s"},
        {"prompt_cache_key": "k"},
        {"parallel_tool_calls": False},
        {"tools": []},
        {"tool_choice": "none"},
        {"logprobs": False},
        {"top_p": 1},
        {"top_p": 1.0},
        {"frequency_penalty": 0},
        {"presence_penalty": 0.0},
        {"logit_bias": {}},
        {"logit_bias": {"7": 0}},
        {"top_k": -1},
        {"top_k": 0},
        {"min_p": 0},
        {"repetition_penalty": 1},
        {"messages": [{"role": "user", "content": "hello", "name": "anna"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "e"}}]}]},
        {"verbosity": "low"},
        {"keep_alive": "5m"},
        {"keep_alive": -1},
        {"modalities": ["text"]},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"stop": []},
        {"stop": "x"},
        {"max_tokens": 3, "max_completion_tokens": 3},
        {"diffusion": {}},
    ],
)
def test_fields_without_effect_are_accepted(harmless: dict[str, Any]) -> None:
    """Fields of OpenAI's platform, and disabled values of unsupported fields."""
    parse(**harmless)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{}]}, "functions"),
        ({"n": 2}, "n"),
        ({"suffix": "x"}, "suffix"),
        ({"structured_outputs": {"grammar": "a"}}, "structured_outputs.grammar"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        ({"guided_json": {}}, "guided_json"),
        ({"diffusion": {"speed": 1}}, "diffusion.speed"),
        ({"stream": True, "stream_options": {"include_moods": True}}, "stream_options.include_moods"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"messages": [{"role": "user", "content": "x", "mood": "n"}]}, "messages[0].mood"),
        (
            {"messages": [*HELLO, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[1].content[0].image_url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]}]},
            "messages[0].content[1].input_audio",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "mood": {}}]}]},
            "messages[0].content[0].mood",
        ),
    ],
)
def test_unsupported_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert (error.code, error.param) == ("unsupported_parameter", param)
    assert param in error.message


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": 3}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": {}}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": ["hello"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_type"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "invalid_value"),
        ({"seed": "x"}, "seed", "invalid_type"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"top_p": True}, "top_p", "invalid_type"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"top_k": 1.5}, "top_k", "invalid_type"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"min_p": 1.1}, "min_p", "invalid_value"),
        ({"presence_penalty": -2.1}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": "1"}, "frequency_penalty", "invalid_type"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"logit_bias": [1]}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"the": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "invalid_value"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "name": 5}]}, "messages[0].name", "invalid_type"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": "1"}, "n", "invalid_type"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": 0}, "stop", "invalid_type"),
        ({"stop": False}, "stop", "invalid_type"),
        ({"stop": {}}, "stop", "invalid_type"),
        ({"stop": ["a", 5]}, "stop", "invalid_type"),
        ({"stop": ["a"] * 33}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"prediction": "x"}, "prediction", "invalid_type"),
        ({"prediction": {"type": "content"}}, "prediction.content", "missing_required_parameter"),
        ({"prediction": {"type": "patch", "content": "x"}}, "prediction.type", "invalid_value"),
        ({"metadata": "x"}, "metadata", "invalid_type"),
        ({"user": 5}, "user", "invalid_type"),
        ({"store": "yes"}, "store", "invalid_type"),
        ({"response_format": "json"}, "response_format", "invalid_type"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        ({"response_format": schema_format({}, strict="x")}, "response_format.json_schema.strict", "invalid_type"),
        ({"response_format": schema_format("x")}, "response_format.json_schema.schema", "invalid_type"),
        ({"diffusion": 5}, "diffusion", "invalid_type"),
        ({"diffusion": {"steps": 0}}, "diffusion.steps", "invalid_value"),
        ({"diffusion": {"steps": 2.5}}, "diffusion.steps", "invalid_type"),
        ({"diffusion": {"t_min": 0}}, "diffusion.t_min", "invalid_value"),
        ({"diffusion": {"anchor": 1.5}}, "diffusion.anchor", "invalid_value"),
        ({"stream": True, "stream_options": {"include_drafts": 1}}, "stream_options.include_drafts", "invalid_type"),
        ({"diffusion": {"deadline_ms": -1}}, "diffusion.deadline_ms", "invalid_value"),
    ],
)
def test_an_invalid_field_is_named_with_its_full_path(fields: dict[str, Any], param: str, code: str) -> None:
    """Type, range and absence have different codes."""
    error = refused(**fields)
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "nonsense"}, "#/type"),
        ({"properties": {"a": {"minLength": -1}}}, "#/properties/a/minLength"),
        ({"pattern": "["}, "#/pattern"),
        ({"$ref": "#/$defs/nowhere"}, "#/"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "#/"),
        ({"$schema": "http://127.0.0.1:9/meta"}, "#/"),
    ],
)
def test_an_invalid_schema_is_refused_with_its_json_pointer(schema: dict[str, Any], place: str) -> None:
    """Also unresolvable and remote references: nothing is fetched."""
    error = refused(response_format=schema_format(schema))
    assert error.param == "response_format.json_schema.schema"
    assert f"'{place}'" in error.message


@pytest.mark.parametrize("body", [b"", b"{", b"hello", b'{"a": NaN}', b"\xff", b'{"a": "\\ud800"}', b"{}{}"])
def test_invalid_json_is_refused(body: bytes) -> None:
    """With the message and position of the parser."""
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"5", b'"x"', b"null"])
def test_a_body_must_be_an_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        parse_chat(body)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1000, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    """With 400, at any depth, without recursion."""
    body = (
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"metadata":' + b'{"a":' * depth + b"1" + b"}" * depth
    )
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body + b"}")
    assert caught.value.code == "invalid_json"


def test_nesting_up_to_the_limit_is_accepted() -> None:
    metadata: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 2):
        metadata = {"a": metadata}
    parse(metadata=metadata)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*CHAT.supported, *IGNORED, *CHAT.off, "x"])


@given(fields=st.dictionaries(NAMES, JSON, max_size=5))
def test_any_json_is_parsed_or_refused_as_an_invalid_request(fields: dict[str, Any]) -> None:
    """No other exception is raised for untrusted input."""
    with contextlib.suppress(InvalidRequest):
        parse(**fields)

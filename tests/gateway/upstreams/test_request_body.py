"""Rewriting the client's body for one target."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.beyond_chat import RESPONSES_PATH
from gateway.enums import Capability, Kind
from gateway.routing.engine_profiles import ENGINES
from gateway.types import Call, Capabilities, Query, Target
from gateway.upstreams.request_body import body_for
from gateway.web.apis.table import APIS
from gateway.web.parse_request import parse_chat


def sent(
    kind: Kind, body: dict[str, Any], capabilities: Capabilities | None = None, rejected: str | None = None
) -> dict[str, Any]:
    target = Target(name="t", kind=kind, url="http://t", model="theirs", location="external")
    given = {"model": "auto", "messages": [], **body}
    query = Query(request_id="r", model="auto", body=orjson.dumps(given), received_s=0, stream=bool(body.get("stream")))
    call = Call(target=target, query=query, validation_error=rejected)
    document: dict[str, Any] = orjson.loads(body_for(call, capabilities))
    return document


@pytest.mark.parametrize("asked", [None, False, True])
@pytest.mark.parametrize("engine", ["openai", "vllm"])
def test_a_response_that_becomes_a_chat_is_not_stored_at_the_target(engine: str, asked: bool | None) -> None:
    body = orjson.dumps({"model": "auto", "input": "Hi", "store": asked})
    query = APIS[RESPONSES_PATH].read(body, {}, now_s=0.0, key=None)
    target = Target(name="t", kind=Kind.OPENAI, url="http://t", model="m", location="external", engine=engine)

    def chat(target: Target) -> dict[str, Any]:
        return dict(orjson.loads(body_for(Call(target=target, query=query), ENGINES[engine])))

    assert chat(target).get("store") == {"openai": False, "vllm": None}[engine]
    assert "store" not in chat(replace(target, ignore=frozenset({"store"})))


@pytest.mark.parametrize("kind", [Kind.WORKER, Kind.OPENAI])
def test_the_model_is_the_targets_own_and_our_metadata_is_gone(kind: Kind) -> None:
    assert sent(kind, {"metadata": {"task": "edit", "private": "true"}}) == {"model": "theirs", "messages": []}
    assert sent(kind, {"metadata": {"task": "edit", "theirs": "x"}})["metadata"] == {"theirs": "x"}


def test_extensions_of_the_worker_stay_with_the_worker() -> None:
    assert sent(Kind.WORKER, {"diffusion": {"steps": 3}})["diffusion"] == {"steps": 3}
    assert "diffusion" not in sent(Kind.OPENAI, {"diffusion": {"steps": 3}})


@pytest.mark.parametrize(
    ("asked", "sent_on"),
    [
        ({}, {"steps": 8}),
        ({"diffusion": {"steps": 3, "t_min": 0.5}}, {"steps": 3, "t_min": 0.5}),
        ({"prediction": {"type": "content", "content": "x"}}, {"steps": 8, "anchor": 0.5}),
    ],
)
def test_decoding_parameters_of_the_request_override_those_of_the_policy(
    asked: dict[str, Any], sent_on: dict[str, Any]
) -> None:
    target = Target(
        name="t", kind=Kind.WORKER, url="http://t", model="m", location="in_cluster",
        diffusion=(("steps", 8), ("anchor", 0.5)),
    )  # fmt: skip
    query = Query(request_id="r", model="auto", body=orjson.dumps({"messages": [], **asked}), received_s=0)
    assert orjson.loads(body_for(Call(target=target, query=query), None))["diffusion"] == sent_on


@pytest.mark.parametrize(
    ("asked", "sent_on"),
    [
        ({}, {"under_load": {"entropy_bound": 0.5, "stability": 0}}),
        ({"entropy_bound": 0.4}, {"entropy_bound": 0.4, "under_load": {"entropy_bound": 0.5, "stability": 0}}),
        ({"entropy_bound": 2}, {"entropy_bound": 2, "under_load": {"stability": 0}}),
        ({"under_load": {}}, {"under_load": {}}),
    ],
)
def test_thresholds_under_load_are_sent_to_the_worker(asked: dict[str, Any], sent_on: dict[str, Any]) -> None:
    """Not where the request itself asks for a looser one: a worker refuses limits that are stricter."""
    limits = ("under_load", (("entropy_bound", 0.5), ("stability", 0)))
    target = Target(name="t", kind=Kind.WORKER, url="http://t", model="m", location="in_cluster", diffusion=(limits,))
    query = Query(request_id="r", model="auto", body=orjson.dumps({"messages": [], "diffusion": asked}), received_s=0)
    assert orjson.loads(body_for(Call(target=target, query=query), None))["diffusion"] == sent_on


@pytest.mark.parametrize("mode", ["verified", "autoregressive"])
@pytest.mark.parametrize(
    ("asked", "sent_on"), [({"steps": 3, "deadline_ms": 9}, {"deadline_ms": 9}), ({"anchor": 1}, None), ({}, None)]
)
def test_a_worker_that_does_not_denoise_gets_the_deadline_alone(mode: str, asked: Any, sent_on: Any) -> None:
    target = Target(name="t", kind=Kind.WORKER, url="http://t", model=f"m:{mode}", location="in_cluster")
    query = Query(request_id="r", model="auto", body=orjson.dumps({"messages": [], "diffusion": asked}), received_s=0)
    assert orjson.loads(body_for(Call(target=target, query=query), None)).get("diffusion") == sent_on


def test_streams_always_include_usage() -> None:
    assert sent(Kind.OPENAI, {"stream": True})["stream_options"] == {"include_usage": True}
    asked = sent(Kind.OPENAI, {"stream": True, "stream_options": {"include_usage": False, "x": 1}})
    assert asked["stream_options"] == {"include_usage": True, "x": 1}
    assert "stream_options" not in sent(Kind.OPENAI, {})


def test_hints_that_a_target_does_not_support_are_dropped() -> None:
    body = {"prediction": {"type": "content", "content": "x"}, "seed": 5, "temperature": 0.5}
    plain = Capabilities(supported=frozenset({Capability.CHAT}))
    assert set(sent(Kind.OPENAI, body, plain)) == {"model", "messages", "temperature"}
    assert set(sent(Kind.OPENAI, body, ENGINES["openai"])) == {"model", "messages", *body}
    assert set(sent(Kind.WORKER, body, None)) == {"model", "messages", *body}


@pytest.mark.parametrize("metadata", [{"task": "checkout"}, {"private": "n/a"}, {"task": 5, "private": None}])
def test_metadata_of_the_application_is_forwarded(metadata: dict[str, Any]) -> None:
    assert sent(Kind.OPENAI, {"metadata": metadata})["metadata"] == metadata


def test_hints_with_the_prefix_stay_in_the_gateway() -> None:
    assert "metadata" not in sent(
        Kind.WORKER, {"metadata": {"twolane_task": "edit", "twolane_private": "no", "Twolane_Locations": "eu"}}
    )


@pytest.mark.parametrize("number", [b"%d" % 2**63, b"%d" % 2**64, b"%d" % -(2**64), b"1" * 90])
def test_integers_of_any_size_are_forwarded_with_all_digits(number: bytes) -> None:
    target = Target(name="t", kind=Kind.OPENAI, url="http://t", model="m", location="external")
    body = b'{"messages":[{"role":"user","content":"hi"}],"user_id":' + number + b',"logit_bias":{"5":1.5}}'
    query = Query(request_id="r", model="auto", body=body, received_s=0)
    assert b'"user_id":' + number + b"," in body_for(Call(target=target, query=query), None)


@pytest.mark.parametrize("kind", Kind)
def test_fields_that_ask_for_nothing_reach_only_servers_that_may_know_them(kind: Kind) -> None:
    nothing = {"future": None, "future_list": [], "future_object": {}, "extra_body": {"regex": None}, "stop": None}
    expected = nothing if kind is Kind.OPENAI else {}
    assert sent(kind, nothing) == {"model": "theirs", "messages": [], **expected}
    something = {"future": 0, "future_list": [None], "extra_body": {"x": None}, "tools": []}
    assert sent(kind, something) == {"model": "theirs", "messages": [], **something}


def test_other_fields_are_forwarded_unchanged() -> None:
    assert sent(Kind.OPENAI, {"top_k": 5, "messages": [{"role": "user", "content": "ü"}]}) == {
        "model": "theirs",
        "messages": [{"role": "user", "content": "ü"}],
        "top_k": 5,
    }


NOTE = "An earlier answer to this was rejected: type at #/n. Answer again so that it fits."


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{"role": "user", "content": "hi"}], [{"role": "user", "content": f"hi\n\n{NOTE}"}]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "{"}],
            [
                {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": NOTE}]},
                {"role": "assistant", "content": "{"},
            ],
        ),
        ([{"role": "system", "content": "s"}], [{"role": "system", "content": "s"}, {"role": "user", "content": NOTE}]),
    ],
)
def test_the_rejection_reason_is_appended_to_the_last_user_message(messages: Any, told: Any) -> None:
    assert sent(Kind.OPENAI, {"messages": messages}, rejected="type at #/n")["messages"] == told
    assert sent(Kind.OPENAI, {"messages": messages})["messages"] == messages


@pytest.mark.parametrize("engine", [*ENGINES, None])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": False}},
        {"temperature": 0.5, "max_tokens": 9, "user": "u"},
        {"seed": 1, "logit_bias": {"1": 2}, "verbosity": "low", "unheard_of": [1]},
        {"metadata": {"task": "edit", "theirs": 1}},
        {"diffusion": {"steps": 3}, "store": True},
        {"response_format": {"type": "json_object"}},
        {"seed": 1},
        {"top_k": 5},
        {"logit_bias": {"1": 2}},
        {"verbosity": "low"},
        {"messages": [{"role": "user", "content": "é", "name": "n"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "é", "cache_control": {"type": "x"}}]}]},
        {"extra_body": {"guided_regex": "a"}},
    ],
)
def test_a_body_whose_fields_are_found_is_sent_as_one_that_is_decoded(engine: str | None, more: dict[str, Any]) -> None:
    capabilities = ENGINES[engine] if engine else None
    found, decoded = sent_both_ways(capabilities, more)
    assert found == decoded
    assert found["model"] == 'a "b"'


@pytest.mark.parametrize(
    "changes",
    [{"ignored": ("seed",)}, {"wants_logprobs": True}, {"choice": 1}, {"validation_error": "type at #/n"}],
)
def test_what_an_attempt_changes_is_sent_although_the_fields_are_found(changes: dict[str, Any]) -> None:
    plain, _ = sent_both_ways(None, {"seed": 1, "n": 2})
    found, decoded = sent_both_ways(None, {"seed": 1, "n": 2}, **changes)
    assert found == decoded != plain


def sent_both_ways(capabilities: Capabilities | None, more: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """With the places of the fields, and without them."""
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "model": "auto", **more}, indent=1).encode()
    query = parse_chat(body, {}, now_s=0, key=None)
    target = Target(name="t", kind=Kind.OPENAI, url="http://t", model='a "b"', capabilities=capabilities)
    both = (query, replace(query, spans=None))
    return [orjson.loads(body_for(Call(target=target, query=each, **changes), capabilities)) for each in both]

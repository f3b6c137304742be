"""What happens to every request parameter at every kind of target, as docs/reference/parameters.md says."""

import asyncio
import re
from collections.abc import AsyncIterator, Container, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.requests.api_support import capabilities_of
from docs.parameters import parameter_targets
from gateway.enums import Kind
from gateway.errors import PolicyError, Unsupported
from gateway.parameters import NESTED, PARAMETERS, Treatment, ignored_by, lacking, treatment
from gateway.policy_files.load import parse
from gateway.types import Call, Query, Target
from gateway.upstreams.litellm_calls import arguments_for
from gateway.upstreams.request_body import body_for
from gateway.upstreams.scripted import says
from gateway.web.parse_request import parse_chat
from tests.gateway.serving import FakeServer, RealGateway, fake_server, last_decision, real_gateway, until
from tests.gateway.stage import build_stage

ENGINES = ("vllm_diffusion", "sglang_diffusion", "vllm", "sglang", "llama_cpp", "openai")
COLUMNS = (*ENGINES, "worker")
TARGETS = parameter_targets()
# A value with an effect for every parameter of the table.
EFFECTIVE: Mapping[str, Any] = {
    "temperature": 0,
    "top_p": 0.95,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.1,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": -100},
    "stop": ["x"],
    "n": 2,
    "logprobs": True,
    "top_logprobs": 2,
    "reasoning_effort": "high",
    "seed": 7,
    "prediction": {"type": "content", "content": "x"},
    "user": "anna",
    "safety_identifier": "s",
    "metadata": {"team": "a"},
    "request_id": "r",
    "store": True,
    "service_tier": "flex",
    "priority": 1,
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"ttl": "30m"},
    "cache_salt": "s",
    "cache_prompt": True,
    "id_slot": 3,
    "keep_alive": "5m",
    "verbosity": "low",
    "include_reasoning": False,
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "x"},
    "web_search_options": {},
    "chat_template_kwargs": {"a": 1},
    "thinking": {"type": "enabled"},
    "enable_thinking": True,
    "think": True,
    "best_of": 2,
    "use_beam_search": True,
    "length_penalty": 0.5,
    "min_tokens": 3,
    "ignore_eos": True,
    "stop_token_ids": [5],
    "bad_words": ["x"],
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "echo": True,
    "add_generation_prompt": False,
    "continue_final_message": True,
    "no_repeat_ngram_size": 2,
    "repeat_penalty": 1.1,
    "typical_p": 0.5,
    "tfs_z": 0.5,
    "top_a": 0.5,
    "mirostat": 2,
    "dynatemp_range": 0.5,
    "dry_multiplier": 0.5,
    "xtc_probability": 0.5,
}
OFF = {name: each.off[0] for name, each in PARAMETERS.items() if each.off}
UNTHINKING = [(name, value) for name, each in PARAMETERS.items() for value in each.unthinking]
PLAIN = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def names_that_are(column: str, *wanted: Treatment) -> set[str]:
    capabilities, ignore = TARGETS[column]
    return {name for name in PARAMETERS if treatment(name, capabilities, ignore) in wanted} - NESTED


def test_every_parameter_has_a_sample_with_an_effect() -> None:
    assert set(EFFECTIVE) == set(PARAMETERS) - NESTED
    assert all(PARAMETERS[name].has_effect(value) for name, value in EFFECTIVE.items())


def policy(url: str) -> str:
    """One target per engine, and a worker, at the same server."""
    shared = {"url": url, "model": "m", "location": "in_cluster"}
    targets = {name: {"kind": "openai", "engine": name, **shared} for name in ENGINES} | {
        "worker": {"kind": "worker", **shared}
    }
    route = {"name": "default", "use": "openai", "validate": {"schema": "none"}}
    return orjson.dumps({"version": 1, "targets": targets, "routes": [route]}).decode()


@pytest.fixture
async def served(tmp_path: Any) -> AsyncIterator[tuple[RealGateway, FakeServer]]:
    """A gateway that knows what its worker publishes."""
    capabilities = dict(capabilities_of(DecodingMode.DIFFUSION))
    models = {"data": [{"id": "m", "twolane": {"aliases": [], "capabilities": capabilities}}]}
    async with (
        fake_server(health={"state": "ready", "predicted_wait_ms": 0}, models=models) as server,
        real_gateway(tmp_path, policy(server.url)) as gateway,
    ):
        await until(lambda: text_of(gateway, "/v1/models/worker"), "ready")
        yield gateway, server


async def text_of(gateway: RealGateway, path: str) -> str:
    async with gateway.client.get(gateway.url + path) as response:
        return await response.text()


@pytest.mark.anyio
async def test_each_parameter_arrives_or_not_as_the_table_says(served: tuple[RealGateway, FakeServer]) -> None:
    gateway, server = served
    for column in COLUMNS:
        asked = {name: EFFECTIVE[name] for name in EFFECTIVE if name not in names_that_are(column, Treatment.REFUSED)}
        status, headers, _ = await gateway.ask({**PLAIN, **asked, "model": column})
        assert (column, status) == (column, 200)
        expected = {name: EFFECTIVE[name] for name in names_that_are(column, Treatment.PASSED, Treatment.WITH_EFFECT)}
        if "n" in names_that_are(column, Treatment.CALLS) and "seed" in expected:
            expected["seed"] += 1  # of the second choice
        assert (column, arrived(server)) == (column, expected)
        assert headers.get("x-twolane-ignored", "") == ",".join(sorted(names_that_are(column, Treatment.IGNORED)))


@pytest.mark.anyio
async def test_values_without_effect_arrive_only_where_they_are_known(served: tuple[RealGateway, FakeServer]) -> None:
    gateway, server = served
    for column in COLUMNS:
        status, headers, _ = await gateway.ask({**PLAIN, **OFF, "model": column})
        assert (column, status, headers.get("x-twolane-ignored")) == (column, 200, None)
        expected = {name: OFF[name] for name in names_that_are(column, Treatment.PASSED) & set(OFF)}
        ignored = {name: OFF[name] for name in names_that_are(column, Treatment.IGNORED)}
        assert {**arrived(server), **ignored} == {**expected, **ignored}, column


@pytest.mark.anyio
async def test_a_request_to_think_less_arrives_wherever_the_server_decides(
    served: tuple[RealGateway, FakeServer],
) -> None:
    """A model that thinks by default thinks on if it does not arrive; a model that cannot think serves it as well."""
    gateway, server = served
    for column in COLUMNS:
        for name, value in UNTHINKING:
            status, headers, _ = await gateway.ask({**PLAIN, name: value, "model": column})
            assert (column, name, status, headers.get("x-twolane-ignored")) == (column, name, 200, None)
            is_sent = name in names_that_are(column, Treatment.PASSED, Treatment.WITH_EFFECT)
            assert (column, arrived(server)) == (column, {name: value} if is_sent else {})
    assert all(name in names_that_are("openai", Treatment.PASSED, Treatment.WITH_EFFECT) for name, _ in UNTHINKING)


@pytest.mark.parametrize(("name", "value"), UNTHINKING)
@pytest.mark.parametrize("profile", ["capabilities: [chat]", "engine: openai"])
def test_a_request_to_think_less_is_passed_unless_the_target_ignores_it(name: str, value: Any, profile: str) -> None:
    target = f"kind: openai, url: 'http://t', model: m, location: external, {profile}"
    policy = parse(
        f"version: 1\ntargets:\n  passes: {{{target}}}\n  ignores: {{{target}, ignore: [{name}]}}\n"
        "routes: [{name: default, use: passes}]",
        {},
    )
    query = parse_chat(orjson.dumps({**PLAIN, name: value}), {}, now_s=0, key=None)
    for named, found in policy.targets.items():
        ignored = ignored_by(found, query)
        sent = orjson.loads(body_for(Call(target=found, query=query, ignored=ignored), found.capabilities))
        assert (sent.get(name), ignored) == ((value, ()) if named == "passes" else (None, (name,)))


@pytest.mark.anyio
async def test_a_refused_parameter_is_named_without_a_call(served: tuple[RealGateway, FakeServer]) -> None:
    gateway, server = served
    for column in COLUMNS:
        names = sorted(names_that_are(column, Treatment.REFUSED))
        answers = await asyncio.gather(
            *(gateway.ask({**PLAIN, name: EFFECTIVE[name], "model": column}) for name in names)
        )
        for name, (status, headers, body) in zip(names, answers, strict=True):
            assert (status, body["error"]["code"]) == (400, "unsupported"), (column, name)
            assert headers["x-twolane-attempts"] == f"{column}=unsupported"
            assert name in body["error"]["message"] or name == "top_logprobs"
    assert server.bodies == []


@pytest.mark.anyio
async def test_unknown_parameters_reach_openai_kinds_and_no_worker(served: tuple[RealGateway, FakeServer]) -> None:
    gateway, server = served
    future = {"thinking_budget": 5, "sampler": {"a": [1.50, None]}}
    for column in ENGINES:
        assert (await gateway.ask({**PLAIN, **future, "model": column}))[0] == 200
        assert arrived(server) == future
    status, _, body = await gateway.ask({**PLAIN, **future, "model": "worker"})
    assert (status, len(server.bodies)) == (400, len(ENGINES))
    assert "sampler, thinking_budget" in body["error"]["message"]


@pytest.mark.anyio
async def test_identities_and_hints_within_messages_are_left_out_where_not_taken(
    served: tuple[RealGateway, FakeServer],
) -> None:
    gateway, server = served
    mark = {"cache_control": {"type": "ephemeral"}}
    part = {"type": "text", "text": "hi"}
    tool = {"type": "function", "function": {"name": "f"}}
    messages = [
        {"role": "user", "name": "anna", "content": [{**part, **mark}], **mark},
        {"role": "user", "content": "x"},
    ]
    without = [{"role": "user", "content": [part]}, {"role": "user", "content": "x"}]
    for column in ("vllm", "openai", "worker"):
        body = {"model": column, "messages": messages, "tools": [{**tool, **mark}]}
        assert (await gateway.ask(body))[0] == 200
        named = [{**without[0], "name": "anna"}, without[1]]
        assert server.bodies[-1]["messages"] == (without if column == "worker" else named)
        assert server.bodies[-1]["tools"] == [tool]


@pytest.mark.anyio
async def test_an_ignored_parameter_is_named_in_header_log_and_metric(tmp_path: Any) -> None:
    target = {"kind": "openai", "engine": "vllm_diffusion", "model": "m", "location": "in_cluster"}
    async with fake_server() as server:
        targets = {
            "default": {**target, "url": server.url},
            "listed": {**target, "url": server.url, "ignore": ["logit_bias", "logprobs", "future"]},
            "strict": {**target, "url": server.url, "ignore": []},
        }
        routes = [{"name": "main", "use": "strict", "fall_back": ["default"]}]
        document = {"version": 1, "targets": targets, "routes": routes}
        async with real_gateway(tmp_path, orjson.dumps(document).decode()) as gateway:
            status, headers, _ = await gateway.ask({**PLAIN, "model": "auto", "temperature": 0})
            assert (status, headers["x-twolane-attempts"]) == (200, "strict=unsupported,default=ok")
            assert headers["x-twolane-ignored"] == "temperature"
            skipped, served = (await last_decision(gateway, headers))["attempts"]
            assert ("ignored" in skipped, served["ignored"]) == (False, ["temperature"])
            page = await gateway.metrics()
            assert 'twolane_ignored_parameters_total{parameter="temperature",target="default"} 1.0' in page

            asked = {"logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 2, "future": 1, "top_p": 0.5}
            _, headers, _ = await gateway.ask({**PLAIN, "model": "listed", "stream": True, **asked})
            assert headers["x-twolane-ignored"] == "future,logit_bias,logprobs,top_logprobs"
            assert set(arrived(server)) == {"top_p", "stream", "stream_options"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ignore: [temprature]", "did you mean 'temperature'?"),
        ("ignore: [tools]", "'tools' is not a parameter"),
        ("ignore: {a: 1}", "expected a string or a list of strings"),
        ("takes: [model]", "'model' is not a parameter"),
        ("takes: [top_a, min_p], ignore: [min_p]", "'min_p' is also in `takes`"),
    ],
)
def test_a_policy_may_not_ignore_anything_else(line: str, problem: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(problem)):
        parse(
            "version: 1\ntargets:\n"
            f"  t: {{kind: openai, engine: vllm, url: 'http://a', model: m, location: external, {line}}}\n"
            "routes: [{name: default, use: t}]",
            {},
            file="p.yaml",
        )


def test_a_target_may_take_more_than_its_engine() -> None:
    takes = "takes: [min_p, cache_control]"
    policy = parse(
        "version: 1\ntargets:\n"
        f"  t: {{kind: openai, engine: openai, url: 'http://a', model: m, location: external, {takes}}}\n"
        "routes: [{name: default, use: t}]",
        {},
        file="p.yaml",
    )
    capabilities = policy.targets["t"].capabilities
    assert capabilities is not None
    for name in ("min_p", "cache_control"):
        assert treatment(name, capabilities) is Treatment.PASSED


def test_what_the_policy_takes_is_not_ignored_by_the_default_of_its_engine() -> None:
    target = "kind: openai, engine: vllm_diffusion, url: 'http://a', model: m, location: external"
    policy = parse(
        f"version: 1\ntargets:\n  t: {{{target}, takes: [temperature]}}\nroutes: [{{name: default, use: t}}]", {}
    )
    assert policy.targets["t"].ignore == {"top_k", "min_p"}


def arrived(server: FakeServer) -> dict[str, Any]:
    return {name: value for name, value in server.bodies[-1].items() if name not in PLAIN}


def as_litellm(body: dict[str, Any], provider_takes: Container[str] | None = None) -> dict[str, Any]:
    target = Target(
        name="l",
        kind=Kind.LITELLM,
        url="litellm:x",
        model="x",
        location="external",
        capabilities=TARGETS["litellm"][0],
    )
    query = Query(request_id="r", model="auto", body=orjson.dumps({**PLAIN, **body}), received_s=0)
    found = arguments_for(Call(target=target, query=query), key="", provider_takes=provider_takes)
    return {name: value for name, value in found.items() if name in PARAMETERS}


def test_litellm_follows_the_same_table() -> None:
    passed = names_that_are("litellm", Treatment.PASSED, Treatment.WITH_EFFECT)
    left_out = names_that_are("litellm", Treatment.LEFT_OUT)
    assert as_litellm({name: EFFECTIVE[name] for name in passed | left_out}) == {
        name: EFFECTIVE[name] for name in passed
    }
    assert {"service_tier", "store", "verbosity", "functions"} <= passed
    assert as_litellm(OFF) == {name: OFF[name] for name in passed & set(OFF)}
    for name in names_that_are("litellm", Treatment.REFUSED):
        with pytest.raises(Unsupported) as refused:
            as_litellm({name: EFFECTIVE[name]} if PARAMETERS[name].capability is None else {"future": 1})
        assert refused.value.param in (name, "future")


def test_litellm_gets_no_hint_that_its_provider_does_not_support() -> None:
    asked = {"temperature": 0.5, "user": "anna", "store": True, "top_p": 1, "presence_penalty": 0.5}
    assert as_litellm(asked, frozenset({"temperature"})) == {"temperature": 0.5, "presence_penalty": 0.5}


@given(st.dictionaries(st.sampled_from(sorted(EFFECTIVE)), st.booleans()), st.sampled_from(COLUMNS))
def test_a_request_is_refused_exactly_for_what_the_target_neither_takes_nor_ignores(
    asked: dict[str, bool], column: str
) -> None:
    """Parameters are judged one by one; those without an effect are never a reason."""
    capabilities, ignore = TARGETS[column]
    body = {name: EFFECTIVE[name] if has_effect else OFF.get(name) for name, has_effect in asked.items()}
    query = build_stage(fast=[says("x")]).query(**body)
    target = Target(name="t", kind=Kind.OPENAI, url="u", model="m", location="external", ignore=ignore)
    refused = {name for name in names_that_are(column, Treatment.REFUSED) if asked.get(name)}
    found = lacking(target, capabilities, query)
    assert found == {"logprobs" if name == "top_logprobs" else name for name in refused}
    assert lacking(replace(target, ignore=ignore | refused | {"logprobs"}), capabilities, query) == set()

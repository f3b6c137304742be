"""A text completion is written for each kind of target."""

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.beyond_chat import BeyondChat, Prompt
from gateway.enums import Capability, Kind, TargetApi
from gateway.parameters import api_for, lacking
from gateway.policy_files.load import parse
from gateway.reliability.admission import admit
from gateway.routing.engine_profiles import ENGINES
from gateway.types import Call, Candidate, Capabilities, Health, Query, Target
from gateway.upstreams.request_body import body_for
from gateway.upstreams.text_prompts import messages_of, takes_all_prompts
from gateway.web.apis.text_request import parse_completion
from tests.measured import cpu_s

MARKED = "<PRE> a = <SUF>\nb <MID>"
CHAT_ONLY = replace(ENGINES["vllm"], supported=ENGINES["vllm"].supported - {Capability.COMPLETIONS})
WITH_SUFFIX = replace(ENGINES["vllm"], supported=ENGINES["vllm"].supported | {Capability.SUFFIX})
WORKER = replace(WITH_SUFFIX, is_open=False, fields=frozenset())

DENOISING = replace(WORKER, supported=WORKER.supported - {Capability.PROMPT_LOGPROBS})


def target(kind: Kind = Kind.OPENAI) -> Target:
    return Target(name="t", kind=kind, url="http://t", model="theirs", location="in_cluster")


def query(**fields: Any) -> Query:
    body = orjson.dumps({"model": "auto", "prompt": "a = ", **fields})
    return parse_completion(body, {}, now_s=0.0, key=None)


def sent(capabilities: Capabilities | None, kind: Kind = Kind.OPENAI, number: int | None = None, **fields: Any) -> Any:
    call = Call(target=target(kind), query=query(**fields), prompt=number)
    return orjson.loads(body_for(call, capabilities))


def test_a_target_with_text_completions_gets_the_prompt() -> None:
    assert sent(ENGINES["vllm"], max_tokens=5, stop=["<MID>"]) == {
        "model": "theirs",
        "prompt": "a = ",
        "max_tokens": 5,
        "stop": ["<MID>"],
    }
    assert sent(ENGINES["vllm"], prompt=[1, 2])["prompt"] == [1, 2]


def test_a_target_that_scores_prompts_echoes_them() -> None:
    fields = {"prompt": [1, 2], "echo": True, "logprobs": 1, "seed": 1234}
    expected = {"model": "theirs", "prompt": [1, 2], "echo": True, "logprobs": 1, "seed": 1234}
    assert sent(ENGINES["vllm"], max_tokens=1, **fields) == {**expected, "max_tokens": 1}
    assert sent(WORKER, Kind.WORKER, max_tokens=0, **fields) == {**expected, "max_tokens": 0}
    assert sent(WORKER, Kind.WORKER, prompt=MARKED, echo=True, logprobs=0)["prompt"] == MARKED


def test_a_target_with_suffixes_gets_the_gap_without_markers() -> None:
    expected = {"model": "theirs", "prompt": "a =", "suffix": "\nb", "stop": ["\n\n"]}
    stops = ["<|endoftext|>", "<PRE>", "\n\n", "[SUFFIX]", "<|fim_middle|>"]
    assert sent(WITH_SUFFIX, prompt=MARKED, stop=stops) == expected
    assert sent(WITH_SUFFIX, prompt="a =", suffix="\nb", stop="\n\n") == {**expected, "stop": "\n\n"}
    assert "stop" not in sent(WITH_SUFFIX, prompt=MARKED, stop=["<PRE>", "<MID>"])


def test_a_target_without_suffixes_gets_the_markers_that_the_client_wrote() -> None:
    assert sent(ENGINES["vllm"], prompt=MARKED, stop=["<PRE>"]) == {
        "model": "theirs",
        "prompt": MARKED,
        "stop": ["<PRE>"],
    }


@pytest.mark.parametrize(
    ("capabilities", "fields"),
    [(CHAT_ONLY, {"prompt": MARKED}), (CHAT_ONLY, {"suffix": "\nb"}), (ENGINES["vllm"], {"suffix": "\nb"})],
)
def test_any_other_target_gets_the_gap_in_a_message(capabilities: Capabilities, fields: dict[str, Any]) -> None:
    body = sent(capabilities, **{"prompt": "a =", **fields}, stop=["<MID>"])
    assert body.keys() == {"model", "messages"}
    assert body["messages"][1] == {"role": "user", "content": "a =<GAP>\nb"}
    assert "<GAP>" in body["messages"][0]["content"]


def test_a_text_that_contains_the_mark_of_the_gap_gets_another_one() -> None:
    [told, body] = sent(CHAT_ONLY, prompt="<GAP> <GAP1>", suffix="\n")["messages"]
    found = re.fullmatch("<GAP> <GAP1>(<GAP-[0-9a-f]{16}>)\n", body["content"])
    assert found is not None
    assert found[1] in told["content"]
    again = sent(CHAT_ONLY, prompt=body["content"], suffix=found[1])["messages"][1]["content"]
    assert again.count(found[1]) == 2  # the text that contains it gets a third one


def test_any_number_of_such_marks_takes_linear_time() -> None:
    def write(marks: int) -> None:
        text = "".join(["<GAP>", *(f"<GAP{number}>" for number in range(1, marks))])
        assert len(messages_of(Prompt(text=text, suffix="\n"))) == 2

    assert cpu_s(lambda: write(10_000), times=2) < 50 * cpu_s(lambda: write(1000))


def test_a_target_without_text_completions_is_asked_to_continue() -> None:
    body = sent(CHAT_ONLY, logprobs=2, max_tokens=5)
    assert body["messages"][1] == {"role": "user", "content": "a = "}
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 2, 5)


@pytest.mark.parametrize(("given", "written"), [(0, 0), (2, 2), (False, None), (True, 1)])
def test_log_probabilities_take_the_form_of_text_completions(given: Any, written: Any) -> None:
    body = sent(ENGINES["vllm"], logprobs=given)
    assert body.get("logprobs") == written
    assert "top_logprobs" not in body


def test_a_worker_gets_its_output_format_as_structured_outputs() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    assert sent(WORKER, Kind.WORKER, response_format=schema)["structured_outputs"] == {"json": {"type": "integer"}}
    body = sent(WORKER, Kind.WORKER, response_format={"type": "json_object"})
    assert (body["structured_outputs"], "response_format" in body) == ({"json_object": True}, False)


def test_a_worker_that_was_not_polled_yet_is_taken_to_have_all_it_can() -> None:
    assert sent(None, Kind.WORKER, suffix="\nb")["suffix"] == "\nb"


def test_several_prompts_are_sent_together_only_where_the_target_takes_them() -> None:
    def takes(capabilities: Capabilities, kind: Kind = Kind.OPENAI, **fields: Any) -> bool:
        return takes_all_prompts(Call(target=target(kind), query=query(**fields)), capabilities)

    both = ["a", "b"]
    assert takes(ENGINES["vllm"], prompt=both)
    assert takes(WITH_SUFFIX, prompt=both, suffix="c")
    assert takes(ENGINES["vllm"], prompt=["a", MARKED])  # the markers are sent as they are
    assert not takes(WITH_SUFFIX, prompt=["a", MARKED])  # one with a suffix, one without
    assert not takes(CHAT_ONLY, prompt=both)
    assert not takes(WORKER, Kind.WORKER, prompt=both)
    assert sent(ENGINES["vllm"], prompt=both, n=2) == {"model": "theirs", "prompt": both, "n": 2}
    assert sent(CHAT_ONLY, number=1, prompt=both)["messages"][1]["content"] == "b"


@pytest.mark.parametrize(
    ("capabilities", "kind", "fields", "missing", "param"),
    [
        (CHAT_ONLY, Kind.OPENAI, {"prompt": [1]}, {"completions"}, "prompt"),
        (ENGINES["vllm"], Kind.OPENAI, {"prompt": [1], "suffix": "b"}, {"suffix"}, "suffix"),
        (ENGINES["vllm"], Kind.LITELLM, {"prompt": [1]}, {"completions"}, "prompt"),
        (Capabilities(supported=frozenset()), Kind.OPENAI, {}, {"completions"}, "prompt"),
        (DENOISING, Kind.WORKER, {"logprobs": 1}, {"logprobs"}, "logprobs"),
        (DENOISING, Kind.WORKER, {"logprobs": 1, "echo": True}, {"logprobs", "prompt_logprobs"}, "logprobs"),
        (ENGINES["llama_cpp"], Kind.OPENAI, {"logprobs": 1, "echo": True}, {"prompt_logprobs"}, "echo"),
        (CHAT_ONLY, Kind.OPENAI, {"logprobs": 1, "echo": True}, {"completions"}, "prompt"),
        (WORKER, Kind.WORKER, {"logprobs": 1, "echo": True, "prompt": [1], "max_tokens": 0}, set(), None),
        (ENGINES["sglang"], Kind.OPENAI, {"logprobs": 1, "echo": True}, set(), None),
        (WORKER, Kind.WORKER, {"min_tokens": 5}, {"min_tokens"}, "min_tokens"),
        (CHAT_ONLY, Kind.OPENAI, {}, set(), None),
        (CHAT_ONLY, Kind.LITELLM, {"suffix": "b"}, set(), None),
        (ENGINES["vllm"], Kind.OPENAI, {"prompt": [1]}, set(), None),
        (WORKER, Kind.WORKER, {"suffix": "b"}, set(), None),
    ],
)
def test_a_target_that_cannot_serve_the_request_is_skipped_by_name(
    capabilities: Capabilities, kind: Kind, fields: dict[str, Any], missing: set[str], param: str | None
) -> None:
    asked, asked_of = query(**fields), replace(target(kind), capabilities=capabilities)
    assert lacking(asked_of, capabilities, asked) == missing
    verdict = admit(Candidate(route="r", target=asked_of), asked, Health())
    assert (verdict.admitted, verdict.param) == (not missing, param)


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("https://h", "https://h/v1/completions"),
        ("https://h/v1", "https://h/v1/completions"),
        ("https://h/v1/fim", "https://h/v1/fim/completions"),
        ("https://h/beta", "https://h/beta/completions"),
        ("https://h/x/v1/chat/completions", "https://h/x/v1/completions"),
        ("https://h/deployments/d?api-version=1", "https://h/deployments/d/completions?api-version=1"),
    ],
)
def test_text_completions_are_beside_the_chat_completions(url: str, called: str) -> None:
    policy = parse(
        f"""
version: 1
targets: {{t: {{kind: openai, url: "{url}", model: m, capabilities: [completions], location: external}}}}
routes: [{{name: default, use: t}}]
""",
        {},
    )
    assert policy.targets["t"].url_of(TargetApi.COMPLETIONS) == called
    assert policy.targets["t"].url_of(TargetApi.EMBEDDINGS) == called.replace("/completions", "/embeddings")


def test_a_chat_is_always_sent_as_a_chat() -> None:
    chat = Query(request_id="r", model="auto", body=b"{}", received_s=0.0)
    assert api_for(target(), WITH_SUFFIX, chat) is TargetApi.CHAT


def test_the_source_of_an_edit_is_where_a_worker_starts() -> None:
    def edited(kind: Kind, **fields: Any) -> Any:
        beyond = BeyondChat(source="x = 1")
        edit = Query(
            request_id="r", model="auto", body=b'{"messages":[]}', received_s=0.0, beyond_chat=beyond, **fields
        )
        return orjson.loads(body_for(Call(target=target(kind), query=edit), None))

    assert edited(Kind.WORKER)["prediction"] == {"type": "content", "content": "x = 1"}
    assert "prediction" not in edited(Kind.OPENAI)  # some models refuse it, and bill what they reject

"""What a request of the Messages API has beyond a chat, as each kind of target spells it."""

from typing import Any

import msgspec
import pytest

from gateway.beyond_chat import BeyondChat, MessagesOptions
from gateway.enums import Capability, FormatKind, Kind
from gateway.routing.engine_profiles import ENGINES, capabilities_of
from gateway.types import Call, Grade, OutputFormat, Query
from gateway.upstreams.request_body import body_for

THOUGHT = {"role": "assistant", "content": "Yes", "reasoning_content": "Hm."}
BODY = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}, THOUGHT]}


@pytest.fixture
def sent(target: Any, query: Any) -> Any:
    def build(engine: str | None = None, kind: Kind = Kind.OPENAI, query_more: Any = None, **options: Any) -> Any:
        beyond = BeyondChat(options=MessagesOptions(**options))
        made: Query = query(body=msgspec.json.encode(BODY), beyond_chat=beyond, **(query_more or {}))
        thinks = capabilities_of(
            frozenset({Capability.CHAT, Capability.REASONING_EFFORT}), json_schema=Grade.NONE, tools=Grade.NONE
        )
        capabilities = ENGINES[engine] if engine else thinks
        call = Call(target=target(kind=kind, engine=engine, capabilities=capabilities), query=made)
        return msgspec.json.decode(body_for(call, capabilities))

    return build


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama_cpp"])
@pytest.mark.parametrize("thinking", [True, False])
def test_the_switch_of_chat_templates_is_set(sent: Any, engine: str, thinking: bool) -> None:
    body = sent(engine, thinking=thinking, has_thoughts=True)
    assert body["chat_template_kwargs"] == {"enable_thinking": thinking}
    assert body["messages"][-1] == THOUGHT


@pytest.mark.parametrize("thinking", [True, False])
def test_openai_gets_neither_switch_nor_thoughts_and_the_newer_limit(sent: Any, thinking: bool) -> None:
    body = sent("openai", thinking=thinking, has_thoughts=True, is_prefilled=True)
    assert body.keys() == {"model", "max_completion_tokens", "messages"}
    assert body["messages"][-1] == {"role": "assistant", "content": "Yes"}


@pytest.mark.parametrize(("thinking", "effort"), [(True, "medium"), (False, "none")])
def test_a_worker_that_thinks_gets_an_effort(sent: Any, thinking: bool, effort: str) -> None:
    body = sent(kind=Kind.WORKER, thinking=thinking, has_thoughts=True)
    assert (body["reasoning_effort"], body["messages"][-1]) == (effort, THOUGHT)


def test_a_worker_is_not_told_to_think_where_the_answer_has_a_form(sent: Any) -> None:
    """It would refuse that."""
    formed = {"output_format": OutputFormat(form=FormatKind.JSON_OBJECT)}
    assert "reasoning_effort" not in sent(kind=Kind.WORKER, thinking=True, query_more=formed)


@pytest.mark.parametrize(
    ("engine", "added"),
    [
        ("vllm", {"continue_final_message": True, "add_generation_prompt": False}),
        ("sglang", {"continue_final_message": True}),
        ("llama_cpp", {}),
    ],
)
def test_a_prefill_is_continued_where_the_engine_can(sent: Any, engine: str, added: dict[str, bool]) -> None:
    body = sent(engine, is_prefilled=True)
    assert {name: body[name] for name in body.keys() - BODY.keys()} == added

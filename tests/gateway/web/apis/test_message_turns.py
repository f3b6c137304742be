"""Turns of messages become chat messages that say the same, in the same order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidField
from gateway.web.apis.message_turns import chat_messages
from twolane.process import exact_json

TEXTS = st.text(max_size=12)
IDS = st.from_regex(r"toolu_[a-z0-9]{1,6}", fullmatch=True)
CACHED = st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}])
TEXT_BLOCKS = st.builds(lambda text, more: {"type": "text", "text": text, **more}, TEXTS, CACHED)
IMAGES = st.builds(
    lambda data: {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
    st.text("abc", min_size=1, max_size=5),
)
DOCUMENTS = st.builds(
    lambda text: {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}, TEXTS
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda each: st.lists(each, max_size=2) | st.dictionaries(TEXTS, each, max_size=2),
    max_leaves=5,
)
CALLS = st.builds(
    lambda call_id, name, given: {"type": "tool_use", "id": call_id, "name": name, "input": given},
    IDS,
    st.from_regex(r"[a-z_]{1,9}", fullmatch=True),
    st.dictionaries(TEXTS, VALUES, max_size=3),
)
RESULTS = st.builds(
    lambda call_id, content, more: {"type": "tool_result", "tool_use_id": call_id, "content": content, **more},
    IDS,
    TEXTS | st.lists(TEXT_BLOCKS | IMAGES, max_size=3),
    st.sampled_from([{}, {"is_error": True}, {"is_error": False}]),
)
THOUGHTS = st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "s"}, TEXTS) | st.just(
    {"type": "redacted_thinking", "data": "x"}
)


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


USERS = st.builds(
    lambda results, rest: turn("user", results + rest),
    st.lists(RESULTS, max_size=3),
    st.lists(TEXT_BLOCKS | IMAGES | DOCUMENTS, max_size=3),
)
ASSISTANTS = st.builds(
    lambda thoughts, texts, calls: turn("assistant", thoughts + texts + calls),
    st.lists(THOUGHTS, max_size=2),
    st.lists(TEXT_BLOCKS, max_size=2),
    st.lists(CALLS, max_size=3),
)
PLAIN = st.builds(turn, st.sampled_from(["user", "assistant", "system"]), TEXTS)
TURNS = st.lists(USERS | ASSISTANTS | PLAIN, min_size=1, max_size=5)


def blocks_of(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def texts_in(content: Any) -> list[str]:
    """All texts that are not empty, those of documents included."""
    found = (each.get("text") or each.get("source", {}).get("data", "") for each in blocks_of(content) if said(each))
    return [text for text in found if text]


def said(block: dict[str, Any]) -> bool:
    return block["type"] in ("text", "document")


@pytest.mark.slow
@given(TURNS)
def test_texts_calls_and_results_keep_their_order(turns: list[dict[str, Any]]) -> None:
    messages = chat_messages(None, turns)
    spoken = [(each["role"], text) for each in turns for text in texts_in(each["content"])]
    assert [
        (message["role"], text)
        for message in messages
        if message["role"] != "tool"
        for text in texts_in(message["content"] or "")
    ] == spoken
    called = [block for each in turns for block in blocks_of(each["content"]) if block["type"] == "tool_use"]
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    assert [(call["id"], call["function"]["name"]) for call in calls] == [(b["id"], b["name"]) for b in called]
    assert [exact_json.loads(call["function"]["arguments"]) for call in calls] == [block["input"] for block in called]
    returned = [block for each in turns for block in blocks_of(each["content"]) if block["type"] == "tool_result"]
    results = [message for message in messages if message["role"] == "tool"]
    assert [result["tool_call_id"] for result in results] == [block["tool_use_id"] for block in returned]
    for result, block in zip(results, returned, strict=True):
        assert all(text in result["content"] for text in texts_in(block["content"]))
        assert result["content"].startswith("Error: ") or not block.get("is_error")


@pytest.mark.slow
@given(TURNS)
def test_no_image_is_lost(turns: list[dict[str, Any]]) -> None:
    """Those of results are in a message of the user, because messages of tools cannot have any."""
    given_images = [
        block["source"]["data"]
        for each in turns
        for outer in blocks_of(each["content"])
        for block in (blocks_of(outer["content"]) if outer["type"] == "tool_result" else [outer])
        if block["type"] == "image"
    ]
    parts = [
        (message["role"], part["image_url"]["url"])
        for message in chat_messages(None, turns)
        for part in blocks_of(message["content"] or "")
        if part["type"] == "image_url"
    ]
    assert [url for _, url in parts] == [f"data:image/png;base64,{data}" for data in given_images]
    assert {role for role, _ in parts} <= {"user"}


@given(TURNS)
def test_results_directly_follow_the_turn_with_their_calls(turns: list[dict[str, Any]]) -> None:
    """Within the messages of one turn, nothing precedes a result."""
    for each in turns:
        roles = [message["role"] for message in chat_messages(None, [each])]
        assert roles == sorted(roles, key=lambda role: role != "tool")
        assert roles


@given(st.lists(TEXT_BLOCKS, max_size=3) | TEXTS | st.none())
def test_instructions_come_first(system: Any) -> None:
    messages = chat_messages(system, [turn("user", "hi")])
    assert messages[-1] == {"role": "user", "content": "hi"}
    texts = [text for message in messages[:-1] for text in texts_in(message["content"])]
    assert texts == texts_in(system or [])
    assert all(message["role"] == "system" for message in messages[:-1])


def test_the_line_that_names_the_version_of_the_agent_is_left_out() -> None:
    """It changes with every request, so that no prefix would be cached."""
    line = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=12345;"}
    messages = chat_messages([line, {"type": "text", "text": "Be brief."}], [turn("user", "hi")])
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert chat_messages([line], [turn("user", "hi")]) == [{"role": "user", "content": "hi"}]


def test_one_text_is_a_string_and_cached_ones_keep_their_mark() -> None:
    """A string fits every chat template; a target that does not take the mark never gets it."""
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    (plain,) = chat_messages(None, [turn("user", [{"type": "text", "text": "a"}, {"type": "text", "text": ""}])])
    (cached,) = chat_messages(None, [turn("user", [marked])])
    assert (plain["content"], cached["content"]) == ("a", [marked])


def test_documents_and_search_results_become_text() -> None:
    source = {"type": "content", "content": [{"type": "text", "text": "inside"}]}
    document = {"type": "document", "title": "Report", "context": "of May", "source": source}
    found = {"type": "search_result", "title": "T", "source": "https://x", "content": [{"type": "text", "text": "c"}]}
    (message,) = chat_messages(None, [turn("user", [document, found])])
    assert [part["text"] for part in message["content"]] == ["Report\nof May", "inside", "T\nhttps://x", "c"]


@pytest.mark.parametrize(
    ("block", "param"),
    [
        ({"type": "server_tool_use"}, "type"),
        ({"type": "container_upload"}, "type"),
        ({"type": "tool_use", "id": "a", "name": "f"}, "type"),  # in a turn of the user
        ({"type": "image"}, "source"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "source.type"),
        ({"type": "image", "source": {"type": "url"}}, "source.url"),
        ({"type": "image", "source": {"type": "base64", "data": "x"}}, "source.media_type"),
        ({"type": "document", "source": {"type": "base64", "data": "x"}}, "source.type"),
        ({"type": "tool_result"}, "tool_use_id"),
        ({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "audio"}]}, "content[0].type"),
        ({"type": "text"}, "text"),
    ],
)
def test_what_a_chat_cannot_contain_is_refused_by_name(block: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as refused:
        chat_messages(None, [turn("user", "hi"), turn("user", [{"type": "text", "text": "x"}, block])])
    assert refused.value.param == f"messages[1].content[1].{param}"
    assert str(refused.value.param) in refused.value.message

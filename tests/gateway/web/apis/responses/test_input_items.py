"""The items of a response's input become the messages of a chat, with nothing lost and calls before their outputs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidField
from gateway.web.apis.responses.input_items import conversation_of

TEXT = st.text(max_size=8)
ROLE = st.sampled_from(["user", "system", "developer"])


def message(role: str, texts: list[str], *, is_plain: bool) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    content: Any = "".join(texts) if is_plain else [{"type": kind, "text": text} for text in texts]
    return {"role": role, "content": content} if is_plain else {"type": "message", "role": role, "content": content}


MESSAGE = st.builds(message, ROLE, st.lists(TEXT, min_size=1, max_size=3), is_plain=st.booleans())
SAID = st.builds(message, st.just("assistant"), st.lists(TEXT, min_size=1, max_size=3), is_plain=st.booleans())
THOUGHT = st.just({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"})


@st.composite
def inputs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Messages, reasoning and calls in any order; every call has an output somewhere behind it."""
    items: list[dict[str, Any]] = []
    waiting: list[tuple[str, bool]] = []
    for number in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(["message", "said", "thought", "call", "output"]))
        if kind == "call":
            call_id, is_custom = f"call_{number}", draw(st.booleans())
            name, text = draw(st.sampled_from("ab")), draw(TEXT)
            head = {"call_id": call_id, "name": name}
            items.append(
                {"type": "custom_tool_call", **head, "input": text}
                if is_custom
                else {"type": "function_call", **head, "arguments": text}
            )
            waiting.append((call_id, is_custom))
        elif kind == "output" and waiting:
            items.append(output(*waiting.pop(draw(st.integers(0, len(waiting) - 1))), draw(TEXT)))
        else:
            items.append(draw({"said": SAID, "thought": THOUGHT}.get(kind, MESSAGE)))
    items += [output(*each, draw(TEXT)) for each in waiting]
    items.append(draw(MESSAGE))
    return items


def output(call_id: str, is_custom: bool, text: str) -> dict[str, Any]:
    kind = "custom_tool_call_output" if is_custom else "function_call_output"
    return {"type": kind, "call_id": call_id, "output": text}


def texts_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


@given(inputs())
def test_texts_calls_and_outputs_keep_their_roles_and_order(items: list[dict[str, Any]]) -> None:
    messages = conversation_of(items, None).messages
    given_texts = [(item["role"], texts_of(item["content"])) for item in items if "role" in item]
    assert [
        (each["role"], texts_of(each["content"]))
        for each in messages
        if each["role"] != "tool" and each["content"] is not None
    ] == given_texts
    calls = [call for each in messages for call in each.get("tool_calls", ())]
    assert [(call["id"], call[call["type"]]["name"]) for call in calls] == [
        (item["call_id"], item["name"]) for item in items if "name" in item
    ]
    assert [call[call["type"]].get("arguments", call[call["type"]].get("input")) for call in calls] == [
        item.get("arguments", item.get("input")) for item in items if "name" in item
    ]
    outputs = {item["call_id"]: item["output"] for item in items if "output" in item}
    assert {each["tool_call_id"]: each["content"] for each in messages if each["role"] == "tool"} == outputs


@given(inputs())
def test_the_outputs_of_all_calls_follow_directly(items: list[dict[str, Any]]) -> None:
    """OpenAI's chat completions reject anything else."""
    expected: set[str] = set()
    for each in conversation_of(items, None).messages:
        if each["role"] == "tool":
            expected.remove(each["tool_call_id"])
        else:
            assert not expected
            expected = {call["id"] for call in each.get("tool_calls", ())}
    assert not expected


def test_calls_behind_a_text_of_the_assistant_belong_to_its_message() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    items = [message("assistant", ["Let me see."], is_plain=False), call, output("a", False, "1")]
    first, second = conversation_of(items, None).messages
    assert (first["content"], [each["id"] for each in first["tool_calls"]]) == ("Let me see.", ["a"])
    assert second == {"role": "tool", "tool_call_id": "a", "content": "1"}


def test_two_calls_with_the_same_id_get_their_outputs_in_order() -> None:
    """Some models number their calls from the beginning in each turn."""
    call = {"type": "function_call", "call_id": "call_0", "name": "f", "arguments": "{}"}
    items = [call, output("call_0", False, "1"), call, output("call_0", False, "2")]
    assert [each.get("content") for each in conversation_of(items, None).messages] == [None, "1", None, "2"]


def test_images_and_files_keep_their_form_and_follow_the_output_that_has_them() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}
    file = {"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "See"}, image, file]},
        call,
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "Shot"}, image]},
        {"role": "user", "content": "Well?"},
    ]
    asked, _, tool, shown, last = conversation_of(items, None).messages
    as_chat = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}
    assert asked["content"][1] == as_chat
    assert asked["content"][2]["file"] == {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}
    assert tool["content"] == "Shot"
    assert (shown["role"], shown["content"][1]) == ("user", as_chat)
    assert last["content"] == "Well?"


def test_instructions_are_the_first_message_and_a_text_is_one_of_the_user() -> None:
    assert conversation_of("Hi", "Be brief.").messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


def test_items_of_hosted_tools_are_named_by_their_tool() -> None:
    items = [
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "mcp_list_tools"},
        {"type": "local_shell_call_output"},
        {"role": "user", "content": "Hi"},
    ]
    found = conversation_of(items, None)
    assert found.hosted == {"web_search": "input[0].type", "mcp": "input[1].type", "local_shell": "input[2].type"}
    assert len(found.messages) == 1


CALL = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (None, "input"),
        ([], "input"),
        (5, "input"),
        ([{"type": "reasoning"}], "input"),
        ([5], "input[0]"),
        ([{"role": "tool", "content": "a"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"content": "a"}], "input[0].role"),
        ([{"role": "user", "content": 5}], "input[0].content"),
        ([{"role": "user", "content": ["a"]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], "input[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "assistant", "content": [{"type": "input_image"}]}], "input[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}], "input[0].content[0].file_id"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0].image_url"),
        ([{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}], "input[0].content[0].file_url"),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "input[0].content[0].file_data"),
        ([{"role": "user", "content": "a"}, {"type": "item_reference", "id": "x"}], "input[1].type"),
        ([{"type": 5}], "input[0].type"),
        ([CALL], "input[0].call_id"),
        ([{**CALL, "name": ""}], "input[0].name"),
        ([{**CALL, "arguments": {}}], "input[0].arguments"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input[0].call_id"),
        ([{"type": "custom_tool_call", "call_id": "a", "name": "f"}], "input[0].input"),
        ([{"type": "function_call_output", "call_id": "a", "output": "1"}], "input[0].call_id"),
        ([CALL, {"type": "function_call_output", "call_id": "b", "output": "1"}], "input[1].call_id"),
        (
            [CALL, {"type": "function_call_output", "call_id": "a", "output": [{"type": "x"}]}],
            "input[1].output[0].type",
        ),
    ],
)
def test_an_invalid_item_is_named_by_its_path(items: Any, param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        conversation_of(items, None)
    assert caught.value.param == param
    assert param in caught.value.message or "reference" in caught.value.message or "output" in caught.value.message

"""Requests of editors for edits, and their answers."""

from typing import Any

import orjson
import pytest

from gateway.enums import Capability, TargetApi, Task
from gateway.errors import BadRequest
from gateway.types import Query
from gateway.web.apis.edits import CodeWriter, parse_apply, parse_edit

CODE = "def greet(name):\n    print('hi')"
EDIT = (
    "<|recently_viewed_code_snippets|>\n<|/recently_viewed_code_snippets|>\n\n"
    "<|current_file_content|>\ncurrent_file_path: greet.py\nimport sys\n"
    "<|code_to_edit|>\ndef greet(name):\n    print('hi<|cursor|>')\n<|/code_to_edit|>\nmain()\n"
    "<|/current_file_content|>\n\n<|edit_diff_history|>\n-a\n+b\n<|/edit_diff_history|>"
)
APPLY = f"<|original_code|>\n{CODE}\n<|/original_code|>\n\n<|update_snippet|>\n    print(name)\n<|/update_snippet|>"


def body(text: Any, *before: dict[str, Any], **fields: Any) -> bytes:
    return orjson.dumps({"model": "auto", "messages": [*before, {"role": "user", "content": text}], **fields})


def parse(parser: Any, *given: Any, **fields: Any) -> Query:
    return parser(body(*given, **fields), {}, now_s=5.0, key=None)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("parser", "text"), [(parse_edit, EDIT), (parse_apply, APPLY)])
def test_an_edit_starts_from_the_code_and_is_an_edit_by_construction(parser: Any, text: str) -> None:
    query = parse(parser, text, temperature=0)
    assert (query.beyond_chat.source, query.beyond_chat.api) == (CODE, TargetApi.CHAT)
    assert (query.task_hint, query.task_hint_from) == (Task.EDIT, "api")
    assert query.needs == {Capability.CHAT, Capability.TEMPERATURE}
    messages = orjson.loads(query.body)["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"] == text
    assert query.system_text.startswith("The user's message")


def test_instructions_of_the_client_take_the_place_of_ours() -> None:
    own = {"role": "system", "content": "Edit the marked section."}
    assert orjson.loads(parse(parse_edit, EDIT, own).body)["messages"][0] == own


def test_text_in_parts_is_read_too() -> None:
    assert parse(parse_apply, [{"type": "text", "text": APPLY}]).beyond_chat.source == CODE


@pytest.mark.parametrize(
    ("parser", "text", "tag"),
    [
        (parse_edit, "Fix this.", "code_to_edit"),
        (parse_edit, APPLY, "code_to_edit"),
        (parse_apply, EDIT, "original_code"),
        (parse_apply, f"<|original_code|>\n{CODE}\n<|/original_code|>", "update_snippet"),
        (parse_apply, f"<|original_code|>\n{CODE}", "original_code"),
    ],
)
def test_a_missing_section_is_named(parser: Any, text: str, tag: str) -> None:
    with pytest.raises(BadRequest, match=tag) as caught:
        parse(parser, text)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"model": "auto", "messages": []}', "messages"),
        (b'{"model": "auto"}', "messages"),
        (b'{"model": "auto", "messages": [], "messages": []}', "messages"),
        (body(EDIT, temperature=9), "temperature"),
        (b"nope", None),
    ],
)
def test_errors_of_the_request_are_those_of_chats(raw: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_edit(raw, {}, now_s=0.0, key=None)
    assert caught.value.param == param


def writer(text: str = EDIT, *, in_fence: bool) -> CodeWriter:
    return CodeWriter(parse(parse_edit if in_fence else parse_apply, text), 7.9, in_fence=in_fence)


def whole(made: CodeWriter, text: str | None) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return orjson.loads(made.whole(orjson.dumps({"id": "c1", "choices": [choice]})))


def streamed(made: CodeWriter, *texts: str, reason: str | None = "stop") -> str:
    parts = []
    for text in texts:
        parts += made.chunks(orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}))
    if reason:
        parts += made.chunks(orjson.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
    chunks = [orjson.loads(part) for part in parts + made.end()]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("answer", [CODE, f"{CODE}\n", f"```python\n{CODE}\n```", f"```\n{CODE}\n\n```\n"])
def test_an_edit_is_answered_in_the_fence_that_editors_cut_it_out_of(answer: str) -> None:
    fenced = f"```\n{CODE}\n\n```"
    assert whole(writer(in_fence=True), answer)["choices"][0]["message"]["content"] == fenced
    assert streamed(writer(in_fence=True), *answer) == fenced
    assert streamed(writer(in_fence=True), *answer, reason=None) == fenced


@pytest.mark.parametrize("answer", [CODE, f"```python\n{CODE}\n```"])
def test_an_apply_is_answered_with_the_bare_file(answer: str) -> None:
    made = whole(writer(APPLY, in_fence=False), answer)
    assert (made["object"], made["created"], made["model"]) == ("chat.completion", 7, "auto")
    assert made["choices"][0]["message"]["content"] == CODE
    assert streamed(writer(APPLY, in_fence=False), *answer) == CODE


def test_a_file_that_begins_with_a_fence_keeps_it() -> None:
    file = "```sh\nmake\n```"
    text = APPLY.replace(CODE, file)
    assert whole(writer(text, in_fence=False), file)["choices"][0]["message"]["content"] == file


def test_an_answer_without_text_passes_unchanged() -> None:
    assert whole(writer(in_fence=True), None)["choices"][0]["message"]["content"] is None

"""Messages for chat templates: old thoughts are removed, tool results are matched to their calls."""

import pytest

from diffusion_worker.text.messages import (
    Message,
    PastCall,
    folded_messages,
    plain_messages,
    template_messages,
    without_old_thoughts,
)

CALL = PastCall(id="1", name="f", arguments={"a": 1})


def user(content: str = "q") -> Message:
    return Message(role="user", content=content)


def model(content: str = "", thought: str = "", *calls: PastCall) -> Message:
    return Message(role="assistant", content=content, thought=thought, calls=calls)


def tool(content: str, call_id: str = "1") -> Message:
    return Message(role="tool", content=content, call_id=call_id)


def test_thoughts_after_the_last_user_message_are_kept() -> None:
    """The model can continue them after a tool call; earlier thoughts are removed."""
    turns = [user(), model("a", "old"), user(), model("", "new", CALL), tool("r"), model("", "newer", CALL)]
    assert [turn.thought for turn in without_old_thoughts(turns)] == ["", "", "", "new", "", "newer"]


@pytest.mark.parametrize(
    ("content", "cleaned"),
    [
        ("<|channel>thought\nhm<channel|>yes", "yes"),
        ("<|channel>thought\n<channel|>\n yes", "yes"),
        ("a<|channel>x<channel|>b<|channel>y<channel|>c", "abc"),
        ("<|channel>thought\ncut off", ""),
        ("no <channel|> at all", "no <channel|> at all"),
    ],
)
def test_thoughts_written_in_the_content_are_removed(content: str, cleaned: str) -> None:
    """Clients without `reasoning_content` send answers back as they received them."""
    assert without_old_thoughts([model(content), user(content)]) == (model(cleaned), user(content))


def test_messages_have_openais_form() -> None:
    """Only fields that are set; arguments as values."""
    assert template_messages([user(), model("", "hm", CALL), tool("r")]) == [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "r", "tool_call_id": "1"},
    ]


def test_tool_results_can_be_folded_into_the_message_of_the_call() -> None:
    """In order and with the function name; a result without a preceding call remains a separate message."""
    turns = folded_messages([tool("lost"), model("", "", CALL), tool("r"), tool("s", "2"), user()])
    assert [turn["role"] for turn in turns] == ["tool", "assistant", "user"]
    assert turns[1]["tool_responses"] == [{"name": "f", "response": "r"}, {"name": "unknown", "response": "s"}]


def test_arguments_that_are_no_object_are_rendered_as_text() -> None:
    """A call that was cut off: as it is where the template has no tools, else as the value of one argument."""
    cut = Message(role="assistant", content="", calls=(PastCall(id="1", name="f", arguments='{"city": "Ro'),))
    assert template_messages([cut])[0]["tool_calls"][0]["function"]["arguments"] == {"text": '{"city": "Ro'}
    [shown] = plain_messages([cut], [])
    assert shown.content == '<tool_call>{"name": "f", "arguments": "{\\"city\\": \\"Ro"}</tool_call>'

"""text.conversation: old thoughts go, calls find their answers."""

import pytest

from diffusion_worker.text.messages import Message, PastCall, folded_messages, template_messages, without_old_thoughts

CALL = PastCall(id="1", name="f", arguments={"a": 1})


def user(content: str = "q") -> Message:
    return Message(role="user", content=content)


def model(content: str = "", thought: str = "", *calls: PastCall) -> Message:
    return Message(role="assistant", content=content, thought=thought, calls=calls)


def tool(content: str, call_id: str = "1") -> Message:
    return Message(role="tool", content=content, call_id=call_id)


def test_a_thought_stays_in_the_turn_it_was_thought_in() -> None:
    """Behind the last question the model goes on where it was; what it thought before is not shown again."""
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
def test_thought_spelled_out_in_an_answer_goes(content: str, cleaned: str) -> None:
    """Clients that know no `reasoning_content` send back what they were sent."""
    assert without_old_thoughts([model(content), user(content)]) == (model(cleaned), user(content))


def test_turns_are_openais_shapes() -> None:
    """Only what is there; arguments as values."""
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


def test_answers_of_tools_can_be_folded_into_the_turn_that_called() -> None:
    """In their order and under the function's name; an answer without a call before it stays a turn of its own."""
    turns = folded_messages([tool("lost"), model("", "", CALL), tool("r"), tool("s", "2"), user()])
    assert [turn["role"] for turn in turns] == ["tool", "assistant", "user"]
    assert turns[1]["tool_responses"] == [{"name": "f", "response": "r"}, {"name": "unknown", "response": "s"}]

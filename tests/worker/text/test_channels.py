"""Channel parser: text, thought and tool calls, independent of block boundaries."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.tool_calls import Syntax
from diffusion_worker.text.channels import ChannelOutput, ChannelParser, ParserOptions, control_tokens_of
from diffusion_worker.text.detokenize import Detokenizer
from diffusion_worker.text.token_logprobs import NO_LOGPROBS
from diffusion_worker.types.events import TokenLogprobs
from tests.worker.released import CONTROL, released_tokenizer
from tests.worker.serving import toy_tokenizer

TOKENIZER = released_tokenizer()
CONTROL_TOKENS = control_tokens_of(TOKENIZER)
CALLS = ParserOptions(calls=Syntax.NATIVE)
WEATHER = '<|tool_call>call:weather{city:<|"|>São Paulo<|"|>,days:3}<tool_call|>'


def ids(text: str) -> tuple[int, ...]:
    """Control tokens count as such."""
    return TOKENIZER.encode(text)


def joined(parts: list[ChannelOutput]) -> tuple[str, str, list[tuple[str, object]]]:
    calls = [(call.name, json.loads(call.arguments)) for part in parts for call in part.calls]
    return "".join(part.text for part in parts), "".join(part.thought for part in parts), calls


def parsed(text: str, options: ParserOptions = CALLS, *, prompt: str = "") -> tuple[str, str, list[tuple[str, object]]]:
    """Text, thought and calls of a whole answer, fed id by id."""
    parser = ChannelParser(TOKENIZER, CONTROL_TOKENS, options, ids(prompt))
    return joined([*(parser.feed((token,)) for token in ids(text)), parser.flush()])


@pytest.mark.parametrize(
    ("answer", "text", "thought"),
    [
        ("plain", "plain", ""),
        ("<|channel>thought\n<channel|>plain", "plain", ""),
        ("<|channel>thought\n\n <channel|>plain", "plain", ""),
        ("<|channel>thought<channel|>plain", "plain", ""),
        ("<|channel>thought\nhm, é\nso\n<channel|>é!", "é!", "hm, é\nso"),
        ("<|channel>thought\n  in\n\n  out<channel|>x", "x", "  in\n\n  out"),
        ("<|channel>thoughtful<channel|>x", "x", "thoughtful"),
        ("<|channel>other\nname<channel|>x", "x", "other\nname"),
        ("a<|channel>thought\nb<channel|>c<|channel>thought\nd<channel|>e", "ace", "b\nd"),
        ("<|channel>thought\ncut off", "", "cut off"),
        ("<|channel>thou", "", "thou"),
        ("<|channel>", "", ""),
        ("stray<channel|> close", "stray close", ""),
        ("<|channel>thought\na<|channel>thought\nb<channel|>c", "c", "a\nb"),
    ],
)
def test_thought_is_separated_from_text(answer: str, text: str, thought: str) -> None:
    """The channel name and an empty thought produce no text; a thought that is cut off is not part of the answer."""
    assert parsed(answer) == (text, thought, [])


def test_a_thought_opened_by_the_prompt_continues() -> None:
    """The opening token is in the prompt and not in the answer."""
    assert parsed("hm<channel|>x", prompt="<|turn>model\n<|channel>thought\n") == ("x", "hm", [])
    assert parsed("x", prompt="<|turn>model\n<|channel>thought\n<channel|>") == ("x", "", [])


def test_tool_calls_are_parsed_to_names_and_json() -> None:
    """Several calls after thought and text; a quoted string may contain any character."""
    answer = f'<|channel>thought\nhm<channel|>Look:{WEATHER}<|tool_call>call:f{{a:[<|"|>}}<|"|>]}}<tool_call|>'
    weather = ("weather", {"city": "São Paulo", "days": 3})
    assert parsed(answer) == ("Look:", "hm", [weather, ("f", {"a": ["}"]})])


@pytest.mark.parametrize(
    "call",
    [
        "<|tool_call>call:f(city=1)<tool_call|>",
        "<|tool_call><tool_call|>",
        '<|tool_call>call:f{city:<|"|>é<tool_call|>',
        "<|tool_call>call:f{a:1",
    ],
)
def test_a_malformed_call_remains_text(call: str) -> None:
    """With its control tokens written out, so that the error is visible."""
    assert parsed(f"a{call}") == (f"a{call}", "", [])


def test_a_complete_call_needs_no_closing_token() -> None:
    """The checkpoint may end its turn with the end token `<|tool_response>` directly after the brace."""
    assert parsed("<|tool_call>call:f{a:1}")[2] == [("f", {"a": 1})]
    assert parsed(f"<|tool_call>call:f{{a:1}}{WEATHER}")[2][0] == ("f", {"a": 1})
    assert parsed("<|channel>thought\nhm<|tool_call>call:f{}<tool_call|>") == ("", "hm", [("f", {})])


def test_without_tools_a_call_is_text() -> None:
    assert parsed("<|tool_call>call:f{a:1}<tool_call|>", ParserOptions()) == ("call:f{a:1}", "", [])


def test_stop_strings_are_searched_in_text_only() -> None:
    """Not in thoughts or arguments; the text before and after a thought is searched as one."""
    answer = f"<|channel>thought\nan END<channel|>a E{WEATHER}<|channel>thought\nEND<channel|>ND of it"
    text, thought, calls = parsed(answer, ParserOptions(stops=("END", "Paulo"), calls=Syntax.NATIVE))
    assert (text, thought, len(calls)) == ("a ", "an END\nEND", 1)


def test_thought_tokens_are_counted_without_the_channel_name() -> None:
    """An empty thought counts 0."""
    parser = ChannelParser(TOKENIZER, CONTROL_TOKENS, CALLS)
    parser.feed(ids("<|channel>thought\n<channel|>x"))
    assert parser.thought_ids == 0
    parser.feed(ids("<|channel>thought\nabc<channel|>x"))
    assert parser.thought_ids == 3


PARTS = [
    "<|channel>",
    "thought\n",
    "<channel|>",
    "<|tool_call>",
    "call:f{a:",
    '<|"|>',
    "1}",
    "<tool_call|>",
    "é E",
    "ND\n",
]


@given(answer=st.lists(st.sampled_from(PARTS), max_size=16).map("".join), cuts=st.sets(st.integers(1, 120), max_size=6))
def test_block_boundaries_do_not_change_the_result(answer: str, cuts: set[int]) -> None:
    """For any answer; the parser never raises."""
    options = ParserOptions(stops=("END",), calls=Syntax.NATIVE)
    answer_ids = ids(answer)
    borders = [0, *sorted(cut for cut in cuts if cut < len(answer_ids)), len(answer_ids)]
    parser = ChannelParser(TOKENIZER, CONTROL_TOKENS, options)
    parts = [parser.feed(answer_ids[start:end]) for start, end in pairwise(borders)]
    assert joined([*parts, parser.flush()]) == parsed(answer, options)


def scored_channels(answer: str, cuts: set[int], options: ParserOptions) -> tuple[str, list[str], list[float]]:
    """The text, the tokens of text, thoughts and calls joined, and all log-probabilities: each token's is its place."""
    parser = ChannelParser(TOKENIZER, CONTROL_TOKENS, options)
    scored = [TokenLogprobs(id=token, logprob=float(place), top=()) for place, token in enumerate(ids(answer))]
    borders = [0, *sorted(cut for cut in cuts if cut < len(scored)), len(scored)]
    blocks = [scored[start:end] for start, end in pairwise(borders)]
    parts = [*(parser.feed([each.id for each in block], block) for block in blocks), parser.flush()]
    found = sum((part.logprobs for part in parts), NO_LOGPROBS)
    channels = (found.text, found.thought, found.calls)
    joined_tokens = [
        b"".join(each.token.data or each.token.control.encode() for each in channel).decode(errors="replace")
        for channel in channels
    ]
    places = [each.logprob for channel in channels for each in channel if each.logprob is not None]
    return "".join(part.text for part in parts), joined_tokens, places


def visible(text: str) -> str:
    """Without white space, and without control tokens, which a text shows in a malformed call only."""
    for control in CONTROL:
        text = text.replace(control, "")
    return "".join(text.split())


@given(answer=st.lists(st.sampled_from(PARTS), max_size=16).map("".join), cuts=st.sets(st.integers(1, 120), max_size=6))
def test_log_probabilities_follow_their_tokens_to_the_channel(answer: str, cuts: set[int]) -> None:
    """For any answer and any blocks: the tokens of the text are the text, and no token is in two channels."""
    text, (of_text, of_thoughts, of_calls), places = scored_channels(answer, cuts, CALLS)
    assert visible(of_text) == visible(text)
    assert of_calls.count("<|tool_call>") == len(parsed(answer)[2])
    assert visible(of_thoughts) == visible(parsed(answer)[1])
    assert len(set(places)) == len(places)


TAGGED = ["<tool_call>", '{"name": "f", "arguments": {"a": 1}}', "</tool_call>", "a <tool", "box", "é ", "<"]


@given(
    answer=st.lists(st.sampled_from(TAGGED), max_size=12).map("".join), cuts=st.sets(st.integers(1, 200), max_size=6)
)
def test_log_probabilities_of_tags_belong_to_the_call(answer: str, cuts: set[int]) -> None:
    """However the tag arrives; white space after a call is dropped from the text."""
    options = ParserOptions(calls=Syntax.TAGGED)
    text, (of_text, of_thoughts, of_calls), places = scored_channels(answer, cuts, options)
    assert "".join(of_text.split()) == "".join(text.split())
    assert of_calls.count("</tool_call>") >= len(parsed(answer, options)[2])
    assert not of_thoughts
    assert len(places) == len(ids(answer))


@given(answer=st.lists(st.integers(0, TOKENIZER.size + 3) | st.sampled_from([*CONTROL.values()]), max_size=60))
def test_any_token_ids_can_be_parsed(answer: list[int]) -> None:
    """An untrained model emits arbitrary tokens; control tokens are shown only in malformed calls."""
    parser = ChannelParser(TOKENIZER, CONTROL_TOKENS, ParserOptions())
    text, thought, calls = joined([parser.feed(answer), parser.flush()])
    assert not calls
    assert not any(control in text + thought for control in CONTROL)


@given(answer=st.lists(st.integers(0, 300), max_size=60))
def test_without_control_tokens_the_answer_is_plain_text(answer: list[int]) -> None:
    """The result equals that of the detokenizer."""
    tokenizer = toy_tokenizer()
    parser = ChannelParser(tokenizer, control_tokens_of(tokenizer), ParserOptions(stops=("ab",), calls=Syntax.NATIVE))
    plain = Detokenizer(tokenizer, ("ab",))
    pieces = [plain.feed(answer), plain.flush()]
    outputs = [parser.feed(answer), parser.flush()]
    assert joined(outputs) == ("".join(piece.text for piece in pieces), "", [])
    assert outputs[0].ids_read == pieces[0].ids_read

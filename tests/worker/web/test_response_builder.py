"""Response builder: text, stop strings and usage from engine events."""

from typing import Any

import pytest

from diffusion_worker.constraints.tool_calls import Syntax
from diffusion_worker.text.channels import ParserOptions
from diffusion_worker.types.events import (
    BlockSealed,
    Finished,
    FinishReason,
    PrefixStable,
    PromptScored,
    TokenLogprobs,
    Usage,
)
from diffusion_worker.web.response_builder import ResponseBuilder
from tests.worker.released import released_tokenizer
from tests.worker.serving import toy_tokenizer

TOKENIZER = toy_tokenizer()
RELEASED = released_tokenizer()


def ids(text: str) -> tuple[int, ...]:
    return TOKENIZER.encode_plain(text)


def usage(completion: int, **more: Any) -> Usage:
    known = {"prompt_tokens": 5, "denoising_steps": 3, "forward_passes": 4, "confidence": 0.5, "converged": True}
    return Usage(completion_tokens=completion, **{**known, **more})


def released(answer: str, completion: int) -> BlockSealed:
    return BlockSealed(ids=RELEASED.encode(answer), block=0, usage=usage(completion))


def block(text: str, completion: int) -> BlockSealed:
    return BlockSealed(ids=ids(text), block=0, usage=usage(completion))


def test_a_stable_prefix_counts_like_a_sealed_block() -> None:
    """Each token is counted once, and a stop string is found across prefix and block."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(stops=("STOP",)))
    assert builder.add(PrefixStable(ids=ids("abS"), block=0, usage=usage(3))).text == "ab"
    assert builder.add(BlockSealed(ids=ids("TO"), block=0, usage=usage(5))).text == ""
    assert builder.add(PrefixStable(ids=ids("Pxy"), block=1, usage=usage(8))).text == ""
    assert builder.stopped
    assert builder.final_usage().completion_tokens == 6


def test_without_channels_every_token_is_text() -> None:
    """Text completions have no thoughts, and control tokens produce no text."""
    builder = ResponseBuilder(RELEASED, ParserOptions(channels=False))
    output = builder.add(released("<|channel>thought\nhm<channel|>ab", 14))
    assert (output.text, output.thought) == ("thought\nhmab", "")


def test_draft_text_does_not_change_the_state() -> None:
    """An incomplete character becomes U+FFFD."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions())
    assert builder.draft_text((*ids("a"), *ids("é")[:1])) == "a\ufffd"
    assert builder.add(block("b", 1)).text == "b"


def test_text_and_usage_follow_the_blocks() -> None:
    """The final usage includes the end token."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions())
    assert builder.add(block("ab", 2)).text + builder.add(block("c", 4)).text == "abc"
    finished = Finished(reason=FinishReason.STOP, usage=usage(4))
    assert builder.close(finished).text == ""
    assert builder.final_usage() == usage(4)


def test_tokens_after_a_stop_string_are_not_counted() -> None:
    """Neither those of the same block nor the end token."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(stops=("X",)))
    assert builder.add(block("ab", 2)).text == "ab"
    assert builder.add(block("cXde", 7)).text == "c"
    assert builder.stopped
    assert builder.close(None).text == ""
    assert builder.final_usage().completion_tokens == 4


def test_a_stop_string_across_blocks_is_found() -> None:
    """Its beginning was held back, so nothing has to be retracted."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(stops=("STOP",)))
    assert builder.add(block("abST", 4)).text == "ab"
    assert builder.add(block("OPcd", 8)).text == ""
    assert builder.stopped
    assert builder.final_usage().completion_tokens == 6


def test_held_back_text_is_returned_at_the_end() -> None:
    """The start of a stop string becomes text, an incomplete character becomes U+FFFD."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(stops=("STOP",)))
    sealed = BlockSealed(ids=(*ids("ST"), *ids("é")[:1]), block=0, usage=usage(3))
    assert builder.add(sealed).text == ""
    assert builder.close(Finished(reason=FinishReason.LENGTH, usage=usage(3))).text == "ST\ufffd"


@pytest.mark.parametrize(
    ("prediction", "blocks", "accepted"),
    [("abcd", ["ab", "cd"], 4), ("abcd", ["axcd"], 3), ("abcd", ["xabc"], 3), ("ab", ["abab"], 2), ("", ["ab"], 0)],
)
def test_accepted_prediction_tokens_are_found_despite_edits(prediction: str, blocks: list[str], accepted: int) -> None:
    """Across blocks, and at most as many as prediction and answer have."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(), prediction=ids(prediction))
    for text in blocks:
        builder.add(block(text, len(text)))
    assert builder.accepted_prediction_tokens == accepted


@pytest.mark.parametrize(
    ("reason", "word"),
    [(FinishReason.STOP, "stop"), (FinishReason.LENGTH, "length"), (FinishReason.DEADLINE, "length"), (None, "stop")],
)
def test_finish_reasons_have_openais_names(reason: FinishReason | None, word: str) -> None:
    """None: ended by a stop string."""
    finished = None if reason is None else Finished(reason=reason, usage=usage(1))
    assert ResponseBuilder(TOKENIZER, ParserOptions()).finish_reason(finished) == word


@pytest.mark.parametrize(("reason", "word"), [(FinishReason.STOP, "tool_calls"), (FinishReason.LENGTH, "length")])
def test_the_finish_reason_is_tool_calls_unless_the_answer_was_cut(reason: FinishReason, word: str) -> None:
    """Also for a call without its closing token."""
    builder = ResponseBuilder(RELEASED, ParserOptions(calls=Syntax.NATIVE))
    assert not builder.add(released("<|tool_call>call:f{}", 9)).calls
    finished = Finished(reason=reason, usage=usage(9))
    assert [call.name for call in builder.close(finished).calls] == ["f"]
    assert builder.finish_reason(finished) == word


def test_thought_tokens_are_counted_separately_from_the_prediction() -> None:
    """A prediction is compared with the text only."""
    builder = ResponseBuilder(RELEASED, ParserOptions(), prediction=RELEASED.encode("ab"))
    builder.add(released("<|channel>thought\nhm<channel|>ab", 14))
    assert (builder.reasoning_tokens, builder.accepted_prediction_tokens) == (2, 2)


def scored(text: str) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(id=token, logprob=-1.0, top=()) for token in ids(text))


def test_the_prompt_of_a_second_attempt_is_reported_without_what_the_first_one_kept() -> None:
    """The engine reads kept tokens as part of the prompt. Nothing predicts its first token."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(channels=False), ids("abc"))
    first = BlockSealed(ids=ids("xy"), block=0, usage=usage(2), logprobs=scored("xy"))
    assert [each.token.data for each in builder.add(first).logprobs.text] == [b"x", b"y"]
    again = builder.restart()
    prompt = again.prompt_output(PromptScored(tokens=scored("bcx"))).prompt
    assert [(each.token.data, each.logprob) for each in prompt] == [(b"a", None), (b"b", -1.0), (b"c", -1.0)]
    assert [each.token.data for each in again.resume(ids("x")).logprobs.text] == [b"x"]


def test_an_end_token_has_log_probabilities_unless_a_stop_string_came_first() -> None:
    end = (*scored("xy"), TokenLogprobs(id=1, logprob=-0.5, top=()))
    sealed = BlockSealed(ids=ids("xy"), block=0, usage=usage(3), logprobs=end)
    assert [each.logprob for each in ResponseBuilder(TOKENIZER, ParserOptions()).add(sealed).logprobs.end] == [-0.5]
    stopping = ResponseBuilder(TOKENIZER, ParserOptions(stops=("y",)))
    assert stopping.add(sealed).logprobs.end == ()

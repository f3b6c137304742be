"""web.transcript: text, stop strings and a true account from the engine's events."""

from typing import Any

import pytest

from diffusion_worker.constraints.tool_calls import Syntax
from diffusion_worker.text.channels import ParserOptions
from diffusion_worker.types.events import BlockSealed, Finished, FinishReason, PrefixStable, Usage
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


def test_what_is_steady_counts_like_what_is_sealed() -> None:
    """A block that was told in parts is told once, and a stop string is found across the parts."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(stops=("STOP",)))
    assert builder.add(PrefixStable(ids=ids("abS"), block=0, usage=usage(3))).text == "ab"
    assert builder.add(BlockSealed(ids=ids("TO"), block=0, usage=usage(5))).text == ""
    assert builder.add(PrefixStable(ids=ids("Pxy"), block=1, usage=usage(8))).text == ""
    assert builder.stopped
    assert builder.final_usage().completion_tokens == 6


def test_without_channels_all_is_text() -> None:
    """A raw text is no turn: nothing of it is a thought, and control tokens say nothing."""
    builder = ResponseBuilder(RELEASED, ParserOptions(channels=False))
    output = builder.add(released("<|channel>thought\nhm<channel|>ab", 14))
    assert (output.text, output.thought) == ("thought\nhmab", "")


def test_a_sketch_is_the_text_of_ids_that_are_not_final() -> None:
    """It changes nothing, and half a character does not end it."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions())
    assert builder.draft_text((*ids("a"), *ids("é")[:1])) == "a\ufffd"
    assert builder.add(block("b", 1)).text == "b"


def test_text_and_account_follow_the_blocks() -> None:
    """The account of the end holds, end token included."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions())
    assert builder.add(block("ab", 2)).text + builder.add(block("c", 4)).text == "abc"
    finished = Finished(reason=FinishReason.STOP, usage=usage(4))
    assert builder.close(finished).text == ""
    assert builder.final_usage() == usage(4)


def test_an_answer_cut_at_a_stop_string_counts_no_token_behind_it() -> None:
    """Not those of the same block, not its end token."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(stops=("X",)))
    assert builder.add(block("ab", 2)).text == "ab"
    assert builder.add(block("cXde", 7)).text == "c"
    assert builder.stopped
    assert builder.close(None).text == ""
    assert builder.final_usage().completion_tokens == 4


def test_a_stop_string_over_the_border_of_blocks_is_found() -> None:
    """Its beginning was held back, so nothing has to be taken back."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(stops=("STOP",)))
    assert builder.add(block("abST", 4)).text == "ab"
    assert builder.add(block("OPcd", 8)).text == ""
    assert builder.stopped
    assert builder.final_usage().completion_tokens == 6


def test_what_was_held_back_in_vain_leaves_at_the_end() -> None:
    """Half a stop string is text after all, half a character is U+FFFD."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(stops=("STOP",)))
    sealed = BlockSealed(ids=(*ids("ST"), *ids("é")[:1]), block=0, usage=usage(3))
    assert builder.add(sealed).text == ""
    assert builder.close(Finished(reason=FinishReason.LENGTH, usage=usage(3))).text == "ST\ufffd"


@pytest.mark.parametrize(
    ("prediction", "blocks", "accepted"),
    [("abcd", ["ab", "cd"], 4), ("abcd", ["axcd"], 3), ("abcd", ["xabc"], 3), ("ab", ["abab"], 2), ("", ["ab"], 0)],
)
def test_accepted_prediction_tokens_are_found_wherever_edits_have_moved_them(
    prediction: str, blocks: list[str], accepted: int
) -> None:
    """Across blocks, and never more than either side has."""
    builder = ResponseBuilder(TOKENIZER, ParserOptions(), prediction=ids(prediction))
    for text in blocks:
        builder.add(block(text, len(text)))
    assert builder.accepted_prediction_tokens == accepted


@pytest.mark.parametrize(
    ("reason", "word"),
    [(FinishReason.STOP, "stop"), (FinishReason.LENGTH, "length"), (FinishReason.DEADLINE, "length"), (None, "stop")],
)
def test_finish_reasons_are_openais(reason: FinishReason | None, word: str) -> None:
    """None is an answer that a stop string ended."""
    finished = None if reason is None else Finished(reason=reason, usage=usage(1))
    assert ResponseBuilder(TOKENIZER, ParserOptions()).finish_reason(finished) == word


@pytest.mark.parametrize(("reason", "word"), [(FinishReason.STOP, "tool_calls"), (FinishReason.LENGTH, "length")])
def test_an_answer_that_called_says_so_unless_it_was_cut(reason: FinishReason, word: str) -> None:
    """Also a call that only the end of the turn has ended."""
    builder = ResponseBuilder(RELEASED, ParserOptions(calls=Syntax.NATIVE))
    assert not builder.add(released("<|tool_call>call:f{}", 9)).calls
    finished = Finished(reason=reason, usage=usage(9))
    assert [call.name for call in builder.close(finished).calls] == ["f"]
    assert builder.finish_reason(finished) == word


def test_thought_is_accounted_for_apart_and_predicts_nothing() -> None:
    """A prediction speaks of the text, wherever that begins."""
    builder = ResponseBuilder(RELEASED, ParserOptions(), prediction=RELEASED.encode("ab"))
    builder.add(released("<|channel>thought\nhm<channel|>ab", 14))
    assert (builder.reasoning_tokens, builder.accepted_prediction_tokens) == (2, 2)

"""web.surface: what is published is what is honoured."""

from diffusion_worker.records import Reading
from diffusion_worker.web.surface import CAPABILITIES, HARMLESS, HONOURED, OFF

WORDS = (
    "chat completions suffix prediction json_schema json_object regex choice template tools tool_choice seed "
    "temperature top_p logprobs logit_bias stop n stream images embeddings"
).split()


def test_capabilities_use_the_closed_set_of_words() -> None:
    """Each word has its say, for both readings."""
    for capabilities in CAPABILITIES.values():
        assert sorted(capabilities) == sorted(WORDS)


def test_graded_words_carry_a_grade() -> None:
    """A grade where there is one, true or false elsewhere."""
    for capabilities in CAPABILITIES.values():
        assert capabilities["json_schema"] == "best_effort"
        assert capabilities["tools"] == "none"
        assert {type(value) for word, value in capabilities.items()} == {bool, str}


def test_only_the_canvas_can_be_warmed() -> None:
    """Left to right there is nothing to start from."""
    assert CAPABILITIES[Reading.DIFFUSION]["prediction"] == "warm_start"
    assert CAPABILITIES[Reading.AUTOREGRESSIVE]["prediction"] == "none"


def test_no_field_is_both_honoured_and_refused() -> None:
    """Three tables without overlap."""
    assert len({*HONOURED, *HARMLESS, *OFF}) == len(HONOURED) + len(HARMLESS) + len(OFF)


def test_what_is_published_as_missing_is_refused_as_a_field() -> None:
    """A published false and an accepted field would contradict each other."""
    for word, has in CAPABILITIES[Reading.DIFFUSION].items():
        if has is False and word in ("suffix", "tool_choice", "top_p", "logprobs", "logit_bias"):
            assert word in OFF

"""API support: published capabilities agree with the supported fields."""

import pytest

from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.requests.api_support import CHAT, COMPLETIONS, IGNORED, ApiSupport, capabilities_of

SAMPLING = "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty logit_bias seed stop"
WORDS = (
    "chat completions suffix prediction json_schema json_object regex choice template tools tool_choice "
    f"{SAMPLING} reasoning_effort logprobs prompt_logprobs n stream images embeddings decisions"
).split()


def test_capabilities_use_the_names_of_the_policy() -> None:
    """All of them, for both decoding modes."""
    for decoding_mode in DecodingMode:
        assert sorted(capabilities_of(decoding_mode)) == sorted(WORDS)


def test_graded_capabilities_have_a_grade() -> None:
    """All others are true or false."""
    for decoding_mode in DecodingMode:
        capabilities = capabilities_of(decoding_mode)
        assert (capabilities["json_schema"], capabilities["tools"]) == ("guaranteed", "guaranteed")
        assert capabilities["tool_choice"] is True
        assert {type(value) for word, value in capabilities.items()} == {bool, str}


def test_only_diffusion_keeps_to_a_prediction_and_a_suffix() -> None:
    canvas, verified, read = (capabilities_of(decoding_mode) for decoding_mode in DecodingMode)
    assert (canvas["prediction"], canvas["suffix"], canvas["completions"]) == ("anchored", True, True)
    assert (verified["prediction"], verified["suffix"], verified["completions"]) == ("warm_start", False, True)
    assert (read["prediction"], read["suffix"], read["completions"]) == ("none", False, True)


@pytest.mark.parametrize("support", [CHAT, COMPLETIONS])
def test_no_field_is_both_supported_and_refused(support: ApiSupport) -> None:
    names = [*support.supported, *IGNORED, *support.off]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("support", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("decoding_mode", DecodingMode)
def test_a_sampling_parameter_is_published_if_and_only_if_it_is_a_supported_field(
    decoding_mode: DecodingMode, support: ApiSupport
) -> None:
    for word in SAMPLING.split():
        assert capabilities_of(decoding_mode)[word] is True
        assert word in support.supported

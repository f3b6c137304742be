"""Serving state: model ids, and the loaded model."""

import pytest

from diffusion_worker.errors import NotResident
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.error_body import ModelNotFound
from tests.worker.serving import MODEL, READ, VERIFIED, build, serving, toy_model


@pytest.mark.parametrize(
    ("model", "decoding_mode"),
    [
        (MODEL, DecodingMode.DIFFUSION),
        (VERIFIED, DecodingMode.VERIFIED),
        (READ, DecodingMode.AUTOREGRESSIVE),
        ("diffusion", DecodingMode.DIFFUSION),
        ("diffusion:verified", DecodingMode.VERIFIED),
        ("diffusion:autoregressive", DecodingMode.AUTOREGRESSIVE),
    ],
)
def test_an_id_and_its_alias_have_the_same_decoding_mode(model: str, decoding_mode: DecodingMode) -> None:
    """Aliases do not depend on the name of the checkpoint."""
    assert build(toy_model()).serving_state.decoding_mode_of(model) is decoding_mode


def test_the_error_for_an_unknown_id_lists_the_available_ones() -> None:
    """Of all modes, and their aliases."""
    with pytest.raises(ModelNotFound) as caught:
        build(toy_model()).serving_state.decoding_mode_of("gpt")
    assert all(known in caught.value.message for known in (MODEL, VERIFIED, READ, "diffusion:verified"))


@pytest.mark.anyio
async def test_tokenization_and_info_are_available_once_loaded() -> None:
    """Before that, requests are refused and counted."""
    serving_state = build(toy_model()).serving_state
    with pytest.raises(NotResident):
        serving_state.loaded()
    assert b'refused_total{reason="not_resident"} 1.0' in serving_state.meters.render(serving_state.engine.status())
    async with serving(toy_model(max_context=123)) as served:
        assert served.worker.serving_state.loaded()[1].max_context == 123

"""With the shipped checkpoint, an offered tool loses no accuracy, required calls are valid, and labels are as accurate
as denoising."""

import pytest

from benchmarks import labels, tools
from benchmarks.vocabularies import SHIPPED
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('<tool_call>{"name": "weather", "arguments": {"city": "Oslo", "units": ["C"]}}</tool_call>', True),
        ('<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>', False),
        ('so: <tool_call>{"name": "weather", "arguments": {"city": "Oslo", "units": ["C"]}}</tool_call>', False),
        ("<tool_call>", False),
        ("", False),
    ],
)
def test_a_call_is_valid_if_it_is_one_and_fits(text: str, valid: bool) -> None:
    """Checked without the engine's own parser."""
    assert tools.is_valid(text) is valid


@pytest.mark.slow
def test_the_shipped_checkpoint_keeps_both_bars() -> None:
    """Uses fewer samples than the benchmark."""
    model = load(str(SHIPPED), LoadOptions(threads=1))
    row = tools.measure(model, "extraction", DecodingMode.DIFFUSION, count=20)
    assert row.beside >= row.alone >= 18
    assert (row.called, row.valid) == (0, 20)
    found = labels.measure(model, "qty", invented=True, count=20)
    assert found.right >= found.denoised >= 18
    assert found.log_loss < 0.1

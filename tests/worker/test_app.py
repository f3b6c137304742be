"""The settings of a worker reach its model."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffusion_worker import app
from diffusion_worker.models.loader import LoadOptions
from diffusion_worker.settings import read_settings

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "twolane-tiny"


@dataclass
class Loaded:
    """A model of the shipped vocabulary on a device of some type."""

    options: LoadOptions
    device: torch.device
    is_compiled: bool = False
    info: Any = field(default_factory=lambda: SimpleNamespace(vocab_size=272))

    def compile(self) -> None:
        self.is_compiled = True


def loaded(monkeypatch: pytest.MonkeyPatch, *flags: str, device: str = "cpu") -> Loaded:
    """What the flags load."""
    monkeypatch.setattr(app, "load", lambda _folder, options: Loaded(options, torch.device(device)))
    monkeypatch.setattr(app, "run_eager_without_compiler", lambda *_: None)
    _, model = app.load_checkpoint(read_settings(["--checkpoint", str(CHECKPOINT), *flags], {}))
    found: Any = model
    assert isinstance(found, Loaded)
    return found


def test_settings_of_the_model_are_those_of_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--dtype", "float32", "--quantised", "unpack", "--threads", "3", "--device", "cpu", "--experts", "eager")
    thresholds = ("--confidence-threshold", "0.02", "--entropy-bound", "0.3")
    found = loaded(monkeypatch, *flags, *thresholds).options
    assert found == LoadOptions(
        dtype="float32",
        quantised="unpack",
        threads=3,
        device="cpu",
        experts="eager",
        thresholds={"confidence_threshold": 0.02, "entropy_bound": 0.3},
    )
    assert loaded(monkeypatch).options == LoadOptions()


def test_an_exact_worker_loads_an_exact_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose experts do not depend on what other rows choose."""
    assert loaded(monkeypatch, "--exact").options.is_exact
    assert not loaded(monkeypatch).options.is_exact


@pytest.mark.parametrize(
    ("flags", "device", "is_compiled"),
    [
        ((), "cpu", False),
        ((), "cuda", True),
        (("--exact",), "cuda", False),
        (("--compile", "never"), "cuda", False),
        (("--compile", "always"), "cpu", True),
    ],
)
def test_passes_are_compiled_on_a_gpu_unless_they_must_be_exact(
    flags: tuple[str, ...], device: str, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loaded(monkeypatch, *flags, device=device).is_compiled == is_compiled

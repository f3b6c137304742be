"""models.placement: weights are loaded with the requested placement and dtype, or one line states why not."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffusion_worker.engine.loop import run
from diffusion_worker.errors import BadSetting, CheckpointForeign, DeviceFailed, WorkerError
from diffusion_worker.models import placement
from diffusion_worker.models.device_errors import device_problem
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.events import Finished
from diffusion_worker.types.requests import GenerationRequest

HAS_COMPRESSED = importlib.util.find_spec("compressed_tensors") is not None


def declare(folder: Path, **said: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = said
    (folder / "config.json").write_text(json.dumps(config))


def refusal(folder: Path, kind: type[WorkerError], **options: Any) -> str:
    with pytest.raises(kind) as refused:
        load(str(folder), LoadOptions(device="cpu") if not options else LoadOptions(**options))
    assert "\n" not in refused.value.message
    return refused.value.message


@pytest.mark.slow
@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_the_experts_run_as_named(folder: Path, experts: str) -> None:
    """Implementations have the library's names; all give the same answer up to rounding."""
    model = load(str(folder), LoadOptions(device="cpu", dtype="float32", experts=experts))
    assert model._model.config._experts_implementation == experts
    [answer] = run(model, [GenerationRequest(prompt_ids=(9, 10), max_tokens=3, seed=0, denoising=model.info.denoising)])
    assert isinstance(answer.end, Finished)


def test_an_unknown_way_to_run_experts_is_refused_with_those_there_are(folder: Path) -> None:
    message = refusal(folder, BadSetting, experts="quickly")
    assert "--experts quickly: unknown (choose from auto, batched_mm" in message
    assert "twolane" not in message


def test_exact_mode_chooses_its_own_experts(folder: Path) -> None:
    assert "--experts eager" in refusal(folder, BadSetting, experts="eager", is_exact=True)


@pytest.mark.parametrize("device", ["xpu", "xpu:1", "mps", "hpu"])
def test_a_device_whose_memory_cannot_be_measured_is_refused_by_name(folder: Path, device: str) -> None:
    """Whether it is there or not: the plan would be made for the memory of the host."""
    message = refusal(folder, BadSetting, device=device)
    assert message == f"--device {device}: unsupported device {device.split(':')[0]!r} (choose from cpu, cuda)"
    parameter = SimpleNamespace(device=torch.device(device))
    with pytest.raises(BadSetting, match=f"--device-map: unsupported device '{device.split(':')[0]}'"):
        placement._check_devices(SimpleNamespace(named_parameters=lambda: [("lm_head.weight", parameter)]))


@pytest.mark.parametrize("device", ["cuda:7"])
def test_a_device_that_is_not_there_is_refused(folder: Path, device: str) -> None:
    """The error precedes any read of weights."""
    if torch.cuda.is_available():
        pytest.skip("there is an accelerator")
    assert f"--device {device}: not available on this machine" in refusal(folder, BadSetting, device=device)


def fails(error: Exception) -> Any:
    def load(*_: Any, **__: Any) -> Any:
        raise error

    return load


@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_device_that_fails_while_weights_are_read_is_not_called_a_broken_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_hidden: bool
) -> None:
    """Also where the library reports something else, and the device itself has to be asked."""
    failure = RuntimeError("CUDA error: uncorrectable ECC error encountered\nCompile with ...")
    error = ValueError("some weights could not be converted") if is_hidden else failure
    monkeypatch.setattr("transformers.DiffusionGemmaForBlockDiffusion.from_pretrained", fails(error))
    if is_hidden:
        monkeypatch.setattr("diffusion_worker.models.placement.device_problem", lambda _device: failure)
    message = refusal(folder, DeviceFailed, device="cpu")
    assert message == "the device failed while the weights were loaded: " + str(failure).splitlines()[0]


def test_a_device_that_has_failed_before_the_load_is_told_from_one_that_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "empty", fails(RuntimeError("CUDA error: unspecified launch failure")))
    assert "the device cuda:0 failed: CUDA error: " in refusal(folder, DeviceFailed, device="cuda:0")
    monkeypatch.setattr(torch, "empty", fails(RuntimeError("No CUDA GPUs are available")))
    assert "not available on this machine" in refusal(folder, BadSetting, device="cuda:0")


def test_a_device_that_works_or_lacks_memory_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_problem(torch.device("cpu")) is None
    monkeypatch.setattr(torch, "zeros", fails(torch.OutOfMemoryError("CUDA out of memory.")))
    assert device_problem(torch.device("cpu")) is None
    failure = RuntimeError("CUDA error: unknown error")
    monkeypatch.setattr(torch, "zeros", fails(failure))
    assert device_problem(torch.device("cpu")) is failure


@pytest.mark.slow
def test_weights_can_be_placed_by_a_map(folder: Path) -> None:
    """Module by module; the answer is the same as without."""
    placed = {"model.encoder": "cpu", "model.decoder": "cpu", "lm_head": "cpu"}
    model = load(str(folder), LoadOptions(device_map=placed))
    plain = load(str(folder), LoadOptions(device="cpu"))
    request = GenerationRequest(prompt_ids=(9, 10), max_tokens=3, seed=0, denoising=model.info.denoising)
    assert model.info == plain.info
    assert [answer.ids for answer in run(model, [request])] == [answer.ids for answer in run(plain, [request])]


def test_a_map_that_names_no_device_or_scatters_the_text_is_refused(folder: Path) -> None:
    """All contexts are on one device."""
    assert "--device-map" in refusal(folder, BadSetting, device_map={"": "moon"})
    assert "--device-map" in refusal(folder, BadSetting, device_map={"": "cpu", "model.decoder.layers.1": "meta"})


def test_a_map_needs_a_library_that_may_be_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert "requires accelerate" in refusal(folder, BadSetting, device_map="auto")


def test_a_method_that_the_library_does_not_know_is_foreign(folder: Path) -> None:
    """Loaded as unquantised weights, the model would give wrong answers without an error."""
    declare(folder, quant_method="modelopt", quant_algo="NVFP4")
    message = refusal(folder, CheckpointForeign)
    assert f"{folder}: quantisation method 'modelopt' is not supported by transformers " in message


@pytest.mark.skipif(HAS_COMPRESSED, reason="the library is there")
def test_a_missing_quantiser_is_named_in_one_line(folder: Path) -> None:
    """The error names the package to install."""
    declare(folder, quant_method="compressed-tensors", format="nvfp4-pack-quantized", config_groups={})
    message = refusal(folder, CheckpointForeign)
    assert "quantised by 'compressed-tensors'" in message
    assert "compressed" in message.split(":")[-1]


@pytest.mark.parametrize("said", [{"quant_method": "nvfp4"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}])
def test_what_a_quantiser_refuses_is_passed_on(folder: Path, said: dict[str, Any]) -> None:
    """The library's error message, with the folder and the method."""
    declare(folder, **said)
    assert f"{folder}: quantised by {said['quant_method']!r}: " in refusal(folder, CheckpointForeign)

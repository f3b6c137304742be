"""A checkpoint loads, or the error names the file and the problem."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_worker.engine.loop import run
from diffusion_worker.errors import CheckpointBroken, CheckpointError, CheckpointForeign, CheckpointMissing
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.events import Finished
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest

GENERATION = {
    "max_denoising_steps": 24,
    "t_min": 0.3,
    "t_max": 0.9,
    "stability_threshold": 2,
    "confidence_threshold": 0.01,
    "eos_token_id": [1, 7],
    "pad_token_id": 0,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.2},
}

NAME = "model.decoder.layers.0.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, make_library_model: Any) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_library_model(dtype=torch.float32).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def refusal(folder: Path, kind: type[CheckpointError]) -> str:
    with pytest.raises(kind) as refused:
        load(str(folder))
    assert "\n" not in refused.value.message
    return refused.value.message


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Those of the loaded model."""
    model: Any = load(str(folder))
    return dict(model._model.state_dict())


def test_a_checkpoint_brings_its_numbers_and_answers(folder: Path) -> None:
    model = load(str(folder), LoadOptions(device="cpu"))
    assert model.info.denoising == DenoisingParams(
        steps=24,
        t_min=0.3,
        t_max=0.9,
        stability=2,
        confidence_threshold=0.01,
        entropy_bound=0.2,
        canvas_length=12,
    )
    assert (model.info.end_ids, model.info.pad_id, model.info.vocab_size, model.info.max_context) == (
        (1, 7),
        0,
        61,
        512,
    )
    assert model.info.dtype == "float32"
    [answer] = run(model, [GenerationRequest(prompt_ids=(9, 10), max_tokens=5, seed=0, denoising=model.info.denoising)])
    assert isinstance(answer.end, Finished)


def test_thresholds_replace_those_of_the_checkpoint_alone(folder: Path) -> None:
    own = load(str(folder)).info.denoising
    model = load(str(folder), LoadOptions(thresholds={"confidence_threshold": 0.3, "entropy_bound": 4.0}))
    assert model.info.denoising == replace(own, confidence_threshold=0.3, entropy_bound=4.0)


def test_loaded_weights_are_the_saved_ones(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    model = load(str(folder))
    assert torch.equal(model._model.get_parameter(NAME), stored[NAME])


def test_the_number_format_can_be_chosen(folder: Path) -> None:
    assert load(str(folder), LoadOptions(dtype="bfloat16")).info.dtype == "bfloat16"


def test_without_a_generation_config_the_defaults_of_the_released_checkpoint_hold(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    info = load(str(folder)).info
    assert info.denoising == DenoisingParams(canvas_length=12)
    assert info.end_ids == (1,)


def test_weights_in_several_files_are_found_by_their_index(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = weights(folder)
    assert [name for name in names if not torch.equal(loaded[name], tensors[name])] == []
    (folder / "b.safetensors").unlink()
    assert "b.safetensors: no such file" in refusal(folder, CheckpointMissing)


@pytest.mark.parametrize("files", [None, [], {}, {"a": 3}, {"a": ""}, {"a": "../model.safetensors"}, {"a": "a\x00"}])
def test_an_index_names_files_of_its_folder(folder: Path, files: object) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    message = refusal(folder, CheckpointBroken)
    assert f"{folder / 'model.safetensors.index.json'}: weight_map is missing, or does not name files" in message


def test_an_index_beside_a_single_file_is_not_read(folder: Path) -> None:
    """As in the library: it is left over from files that were merged."""
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    assert torch.equal(weights(folder)[NAME], load_file(folder / "model.safetensors")[NAME])


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert f"{folder / file}: no such file" in refusal(folder, CheckpointMissing)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ['{"model_type": ', "[]", "\udcff", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_broken(folder: Path, file: str, text: str) -> None:
    (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(folder / file) in refusal(folder, CheckpointBroken)


def test_another_architecture_is_foreign(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c.update(model_type="llama"))
    assert "'llama'" in refusal(folder, CheckpointForeign)


@pytest.mark.parametrize("size", [0, 7, 500, -1])
def test_a_cut_weights_file_is_broken(folder: Path, size: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert str(file) in refusal(folder, CheckpointBroken)


def test_weights_that_are_no_safetensors_are_broken(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not tensors at all" * 100)
    assert "model.safetensors" in refusal(folder, CheckpointBroken)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_tensor_that_is_not_there_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop(NAME))
    assert "missing weights for this config.json: " in (message := refusal(folder, CheckpointBroken))
    assert "layers.0.mlp.gate_proj.weight" in message, "under the encoder's or the decoder's name: they are tied"


def test_a_tensor_that_does_not_belong_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update(unknown_tensor=torch.zeros(2)))
    assert "unexpected weights for this config.json: unknown_tensor" in refusal(folder, CheckpointBroken)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({NAME: torch.zeros(3, 3)}))
    assert NAME in refusal(folder, CheckpointBroken)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_denoising_steps": 0}, ": max_denoising_steps must be"),
        ({"t_min": 2.0}, ": t_max must be"),
        ({"t_min": "low"}, "t_min must be a number, not 'low'"),
        ({"max_denoising_steps": True}, ": max_denoising_steps must be an integer, not True"),
        ({"stability_threshold": 1.5}, ": stability_threshold must be an integer, not 1.5"),
        ({"eos_token_id": 61}, "eos_token_id"),
        ({"eos_token_id": None}, "eos_token_id"),
        ({"pad_token_id": -1}, "pad_token_id"),
        ({"sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": -1.0}}, "entropy_bound"),
    ],
)
def test_a_wrong_number_in_the_generation_config_is_named(folder: Path, change: dict[str, Any], field: str) -> None:
    edit(folder / "generation_config.json", lambda c: c.update(change))
    message = refusal(folder, CheckpointBroken)
    assert f"{folder / 'generation_config.json'}: " in message
    assert field in message


@pytest.mark.parametrize("value", [0, "long", 12.5])
def test_a_wrong_canvas_length_is_named(folder: Path, value: object) -> None:
    edit(folder / "config.json", lambda c: c.update(canvas_length=value))
    assert f"{folder / 'config.json'}: canvas_length must be" in refusal(folder, CheckpointBroken)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_attention_heads", "many"),
        ("max_position_embeddings", 0),
        ("sliding_window", -1),
        ("top_k_experts", 2),
        ("final_logit_softcapping", "x"),
        ("final_logit_softcapping", 0),
        ("final_logit_softcapping", float("nan")),
    ],
)
def test_a_wrong_number_of_the_text_config_is_named(folder: Path, field: str, value: object) -> None:
    edit(folder / "config.json", lambda c: c["text_config"].update({field: value}))
    message = refusal(folder, CheckpointBroken)
    assert message.startswith(str(folder))
    assert field in message
    assert repr(value) in message

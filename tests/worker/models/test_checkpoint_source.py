"""A checkpoint is found, or the user is told in one line what to do, before the worker opens its port."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_worker.cli import main
from diffusion_worker.errors import BadSetting, CheckpointForeign, CheckpointMissing
from diffusion_worker.models.checkpoint_source import locate, require
from tests.hub_server import COMMIT, Hub, serving

FILES = {"config.json": b'{"model_type": "diffusion_gemma"}', "model.safetensors": b"x" * 1000}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(Hub(files=dict(FILES), revisions=("main", "v1", COMMIT))) as served:
        served.use(monkeypatch, tmp_path / "cache")
        yield served


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nowhere", "nowhere", "a/b/c", "~/nowhere"])
def test_a_folder_that_is_not_there_is_missing(source: str) -> None:
    for find in (locate, require):
        with pytest.raises(CheckpointMissing, match=r"no such folder"):
            find(source)


def test_a_revision_is_the_one_that_is_looked_for(hub: Hub) -> None:
    require(hub.model, "v1")
    folder = locate(hub.model, "v1")
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert any(path.endswith("/resolve/v1/config.json") for _, path, _ in hub.requests)
    with pytest.raises(CheckpointMissing, match=r"no revision 'v2' of it \(--revision\)"):
        require(hub.model, "v2")


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"--revision v1: .* is a folder"):
        require(str(tmp_path), "v1")


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((403, "GatedRepo"), "gated: accept its licence on its page of the hub, then set HF_TOKEN"),
        ((401, "RepoNotFound"), "if the model is private, set HF_TOKEN"),
        ((403, ""), "the hub refuses access: accept the model's licence"),
        ((404, "EntryNotFound"), "the repository has no config.json"),
    ],
)
def test_a_refused_id_says_what_to_do(refusal: tuple[int, str], says: str, hub: Hub) -> None:
    hub.refusal = refusal
    with pytest.raises(CheckpointMissing, match="checkpoint owner/model: ") as refused:
        require(hub.model)
    assert says in refused.value.message


@pytest.mark.parametrize("has_cause", [False, True])
def test_an_unreachable_hub_is_told_in_one_line_before_the_port_is_open(
    has_cause: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing listens there, or downloads are forbidden."""
    if has_cause:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        hub.point(monkeypatch, "http://127.0.0.1:9")
    pauses = list[float]()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", pauses.append)  # between its attempts: 23 s together
    monkeypatch.setattr("diffusion_worker.app.serve", lambda *_: pytest.fail("the port was opened"))
    assert main(["--checkpoint", "owner/model", "--port", "0"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert sum(pauses) < 30
    cause = "HF_HUB_OFFLINE forbids downloads" if has_cause else "the hub cannot be reached: "
    assert complaint.startswith("twolane worker: checkpoint owner/model: no such folder, ")
    assert cause in complaint


def test_an_adapter_is_refused_by_name(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointForeign, match=r"a LoRA adapter, .* merge it into its base model"):
        require(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")  # as some trainers write
    with pytest.raises(CheckpointForeign, match="a LoRA adapter"):
        require(str(tmp_path))
    hub.files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}
    with pytest.raises(CheckpointForeign, match="a LoRA adapter"):
        require(hub.model)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    require(str(tmp_path))


def test_a_folder_without_a_config_is_missing_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match=r"config.json: no such file"):
        require(str(tmp_path))

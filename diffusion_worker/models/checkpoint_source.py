"""Finds a checkpoint: a folder, or an id on the Hugging Face hub. Does not import torch."""

import json
from pathlib import Path
from typing import Any, Final

from diffusion_worker.errors import BadSetting, CheckpointBroken, CheckpointForeign, CheckpointMissing
from twolane.process.errors import first_line
from twolane.process.hugging_face import FILES, download_problem, is_repo_id

CONFIG: Final = "config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER: Final = "adapter_config.json"  # written by peft beside the weights of an adapter


def require(source: str, revision: str | None = None) -> None:
    """Check that there is a checkpoint, before anything heavy is imported: its config is in the folder, or on the hub,
    or in the local cache of the hub. Raises CheckpointMissing, CheckpointForeign for an adapter, or BadSetting."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        _download_config(source, revision)
        return
    if revision is not None:
        raise BadSetting(f"--revision {revision}: {source} is a folder; only ids of the hub have revisions")
    if (folder / ADAPTER).is_file() and not any(folder.glob("model*.safetensors*")):
        raise _adapter(source)
    if not (folder / CONFIG).exists():  # also a link or a pipe
        raise CheckpointMissing(f"{folder / CONFIG}: no such file")


def locate(source: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: `source` itself, or the local snapshot of that hub id, downloaded if necessary.
    Raises CheckpointMissing."""
    from huggingface_hub import snapshot_download

    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    _require_id(source)
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(FILES)))
    except _errors() as error:
        raise CheckpointMissing(f"checkpoint {download_problem(source, revision, error)}") from error


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, found as the library finds them: one, or those of the index. Raises CheckpointBroken
    for a bad index."""
    if (folder / _WEIGHTS).exists() or not (folder / _INDEX).exists():
        return [folder / _WEIGHTS]
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(map(_is_file_name, weight_map.values())):
        raise CheckpointBroken(f"{folder / _INDEX}: weight_map is missing, or does not name files of this folder")
    return [folder / name for name in sorted(set(weight_map.values()))]


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises CheckpointMissing or CheckpointBroken."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointMissing(f"{file}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointBroken(f"{file}: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointBroken(f"{file}: not a JSON object")
    return content


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and name not in ("", "..") and "/" not in name


def _download_config(source: str, revision: str | None) -> None:
    from huggingface_hub import file_exists, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    _require_id(source)
    try:
        hf_hub_download(source, CONFIG, revision=revision)
    except RemoteEntryNotFoundError as error:
        if file_exists(source, ADAPTER, revision=revision):
            raise _adapter(source) from error
        raise CheckpointMissing(f"checkpoint {download_problem(source, revision, error)}") from error
    except _errors() as error:
        raise CheckpointMissing(f"checkpoint {download_problem(source, revision, error)}") from error


def _require_id(source: str) -> None:
    if not is_repo_id(source):
        raise CheckpointMissing(f"checkpoint {source}: no such folder")


def _errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    return HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError


def _adapter(source: str) -> CheckpointForeign:
    return CheckpointForeign(
        f"{source}: a LoRA adapter, which the worker does not load: merge it into its base model and serve the result"
    )

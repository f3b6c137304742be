"""Checkpoints on the Hugging Face hub: the files that belong to one, and error messages for failed requests.

Imports huggingface_hub only where it is used: most programs run without it.
"""

import os
from pathlib import Path
from typing import Final

from twolane.process.errors import first_line

FILES: Final = ("*.json", "*.safetensors", "*.jinja")


def is_repo_id(source: str) -> bool:
    """Whether a checkpoint is an id such as `owner/name`, and not the path of a folder."""
    return not Path(source).is_absolute() and not source.startswith((".", "~")) and source.count("/") == 1


def download_problem(source: str, revision: str | None, error: Exception) -> str:
    """What is wrong and what to do, in one line, for an error of huggingface_hub."""
    for each in _chain(error):
        if refusal := _refusal(revision, each):
            return f"{source}: {refusal}"
    return f"{source}: no such folder, and the hub cannot be reached: {first_line(_chain(error)[-1])}"


def is_temporary(status: int) -> bool:
    """Whether a request that got this HTTP status may succeed later."""
    return status in (408, 425, 429) or status >= 500


def _refusal(revision: str | None, error: BaseException) -> str | None:
    """The message for a response of the hub; None if there was no response."""
    from huggingface_hub import errors

    says = None
    match error:
        case errors.GatedRepoError():
            says = "the model is gated: accept its licence on its page of the hub, then set HF_TOKEN to your token"
        case errors.RevisionNotFoundError():
            says = f"the hub has no revision {revision!r} of it (--revision)"
        case errors.RepositoryNotFoundError():
            says = "no such folder, and no such model on the hub; if the model is private, set HF_TOKEN"
        case errors.RemoteEntryNotFoundError():
            says = "the repository has no config.json: not a transformers checkpoint"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled() if _is_offline():
            says = "no such folder, not downloaded yet (twolane weights fetch), and HF_HUB_OFFLINE forbids downloads"
        case errors.HFValidationError():
            says = "no such folder, and not an id of the hub (owner/name)"
        case errors.HfHubHTTPError() if _status(error) in (401, 403):
            says = "the hub refuses access: accept the model's licence on its page of the hub, and set HF_TOKEN"
        case errors.HfHubHTTPError() if (status := _status(error)) and not is_temporary(status):
            says = f"the hub refuses the request with HTTP {status}"
        case errors.HfHubHTTPError() if _status(error):
            says = f"the hub failed with HTTP {_status(error)}; try again later"
    return says


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes; huggingface_hub wraps an answer of the hub if there is no local copy either."""
    chain = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    return chain

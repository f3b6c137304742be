"""Locates the packaged policies and checkpoint, in an installed wheel and in a checkout."""

from importlib.resources import files
from pathlib import Path
from typing import Final

TINY_CHECKPOINT: Final = "twolane-tiny"
DEFAULT_POLICY: Final = "default.yaml"
DEMO_POLICY: Final = "demo.yaml"
CHAOS_POLICY: Final = "chaos.yaml"
_DATA: Final = "_data"  # created by setup.py, in wheels only


def policy(name: str) -> Path:
    """Return the path of a packaged policy."""
    return _root() / "policies" / name


def checkpoint(name: str) -> Path:
    """Return the folder of a packaged checkpoint."""
    return _root() / "checkpoints" / name


def resolve_checkpoint(given: str) -> str:
    """Return the packaged checkpoint for its plain name, unless such a folder exists here; other values unchanged."""
    shipped = checkpoint(TINY_CHECKPOINT)
    is_shipped = given == TINY_CHECKPOINT and not Path(given).exists() and shipped.is_dir()
    return str(shipped) if is_shipped else given


def _root() -> Path:
    """Return `twolane/_data` of a wheel, or the root of the repository in a checkout."""
    package = Path(str(files("twolane")))
    data = package / _DATA
    return data if data.is_dir() else package.parent

"""Finds the policies and the checkpoint that the package ships, in an installed wheel and in a checkout.

Standard library only: the gateway and the worker use it at their start.
"""

from importlib.resources import files
from pathlib import Path
from typing import Final

TINY_CHECKPOINT: Final = "twolane-tiny"
DEFAULT_POLICY: Final = "default.yaml"
DEMO_POLICY: Final = "tour.yaml"
CHAOS_POLICY: Final = "chaos.yaml"
_DATA: Final = "_data"  # setup.py makes it, in wheels only


def policy(name: str) -> Path:
    """Return the path of a policy that the package ships."""
    return _root() / "policies" / name


def checkpoint(name: str) -> Path:
    """Return the folder of a checkpoint that the package ships."""
    return _root() / "checkpoints" / name


def resolve_checkpoint(given: str) -> str:
    """Return the shipped checkpoint for its plain name, unless a folder of that name exists; other values unchanged."""
    shipped = checkpoint(TINY_CHECKPOINT)
    is_shipped = given == TINY_CHECKPOINT and not Path(given).exists() and shipped.is_dir()
    return str(shipped) if is_shipped else given


def _root() -> Path:
    """`twolane/_data` of a wheel; without it, the folder that holds the package is the repository."""
    package = Path(str(files("twolane")))
    data = package / _DATA
    return data if data.is_dir() else package.parent

"""The folder in which the processes of one gateway share metrics and recent decisions, as far as their parent needs to
know it."""

from pathlib import Path
from typing import Final

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def gauges_file(folder: Path, pid: int) -> Path:
    """The gauges of a process."""
    return folder / f"states_{pid}.json"


def forget(folder: Path, pid: int) -> None:
    """Remove the gauges of a process that has ended."""
    gauges_file(folder, pid).unlink(missing_ok=True)


def forget_all(folder: Path) -> None:
    """Remove what earlier runs shared. Raises OSError."""
    for pattern in ("*.db", "states_*", "decisions.sqlite*"):
        for path in folder.glob(pattern):
            path.unlink()

"""`python -m deploy.grafana` writes the dashboards as Grafana JSON; `--check` exits 1 if a file is out of date."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.grafana.boards import BOARDS
from deploy.grafana.render import render

FOLDER: Final = Path(__file__).parent / "dashboards"


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, or with --check 1 if the folder differs from the code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana", description="Write the dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is not up to date")
    check = parser.parse_args(argv).check
    wanted = {FOLDER / f"{board.uid}.json": render(board) for board in BOARDS}
    stale = [file for file, text in wanted.items() if not file.exists() or file.read_text() != text]
    unexpected = sorted(set(FOLDER.glob("*.json")) - set(wanted))
    for file in [*stale, *unexpected]:
        print(f"{file.name}: {'not up to date' if check else 'removed' if file in unexpected else 'written'}")
    if check:
        return 1 if stale or unexpected else 0
    FOLDER.mkdir(exist_ok=True)
    for file in stale:
        file.write_text(wanted[file])
    for file in unexpected:
        file.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Create the secrets of docker-compose.yml once: keys files of gateway and worker, and the keys of the components.

`python -m deploy.compose.make_secrets [FOLDER]`. Prints the key for applications; nothing is overwritten.
"""

import sys
from pathlib import Path
from typing import Final

from twolane.process.api_keys import key_line, new_key

FOLDER: Final = Path(__file__).parent / "secrets"


def main(folder: Path = FOLDER) -> int:
    """Write the files unless they exist."""
    if folder.exists():
        print(f"{folder}: already exists; delete it to create new secrets", file=sys.stderr)
        return 1
    folder.mkdir(mode=0o711, parents=True)
    application, worker, metrics = (new_key() for _ in range(3))
    scrape = key_line("metrics", metrics, ["scopes=metrics"])
    write(folder / "gateway-keys", f"{key_line('application', application)}\n{scrape}\n")
    write(folder / "worker-keys", f"{key_line('gateway', worker)}\n{scrape}\n")
    write(folder / "metrics-key", metrics)
    write(folder / "gateway.env", f"WORKER_API_KEY={worker}\n")
    print(application)
    return 0


def write(file: Path, text: str) -> None:
    """World-readable inside a private folder, because the containers run as different users."""
    file.write_text(text, encoding="utf-8")
    file.chmod(0o444)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))

"""Create the secrets of docker-compose.yml once: keys files of gateway and worker, and the keys of the components.

`python -m deploy.compose.make_secrets [FOLDER]`. Prints the key for applications; nothing is overwritten. Only their
owner can read the files, so the containers that read them run as that owner: as the images' own user if root runs this,
otherwise as the user who does, which is noted in `.env`.
"""

import os
import re
import sys
from pathlib import Path
from typing import Final

from twolane.process.api_keys import key_line, new_key

FOLDER: Final = Path(__file__).parent / "secrets"
PROMETHEUS_DATA: Final = Path(__file__).parent / "prometheus-data"
ENVIRONMENT: Final = Path(__file__).parents[2] / ".env"
IMAGE_USER: Final = 10001
USER_VARIABLE: Final = "SECRETS_USER"


def main(folder: Path = FOLDER) -> int:
    """Write the files unless they exist."""
    if folder.exists():
        print(f"{folder}: already exists; delete it to create new secrets", file=sys.stderr)
        return 1
    folder.mkdir(mode=0o700, parents=True)
    application, worker, metrics = (new_key() for _ in range(3))
    scrape = key_line("metrics", metrics, ["scopes=metrics"])
    write(folder / "gateway-keys", f"{key_line('application', application)}\n{scrape}\n")
    write(folder / "worker-keys", f"{key_line('gateway', worker)}\n{scrape}\n")
    write(folder / "metrics-key", metrics)
    write(folder / "gateway.env", f"WORKER_API_KEY={worker}\n")
    if folder == FOLDER:
        PROMETHEUS_DATA.mkdir(exist_ok=True)
        own(PROMETHEUS_DATA)
        if os.getuid() != 0:
            set_user(ENVIRONMENT, f"{os.getuid()}:{os.getgid()}")
    print(application)
    return 0


def write(file: Path, text: str) -> None:
    """Readable by its owner only, at any time."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
        new.write(text)
    own(file)


def own(path: Path) -> None:
    """Root's files belong to the user of the images."""
    if os.getuid() == 0:
        os.chown(path, IMAGE_USER, IMAGE_USER)


def set_user(environment: Path, user: str) -> None:
    """Note the user of the containers, `UID:GID`."""
    text = re.sub(rf"(?m)^{USER_VARIABLE}=.*\n?", "", environment.read_text(encoding="utf-8"))
    environment.write_text(f"{text}{USER_VARIABLE}={user}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))

"""Create the secrets of docker-compose.yml once: keys files of gateway and worker, and the keys of the components.

`python -m deploy.compose.make_secrets [FOLDER]`. Prints the key for applications; nothing is overwritten. Only their
owner can read the files, so the containers that read them run as that owner: as the images' own user if root runs this,
otherwise as the user who does. SECRETS_USER in the environment, `UID:GID`, names another user. It is noted in `.env`.
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
    user = user_of_containers()
    if not re.fullmatch(r"\d{1,10}:\d{1,10}", user):
        print(f"{USER_VARIABLE}: must be UID:GID, got {user!r}", file=sys.stderr)
        return 1
    if folder.exists():
        print(f"{folder}: already exists; delete it to create new secrets", file=sys.stderr)
        return 1
    folder.mkdir(mode=0o700, parents=True)
    application, worker, metrics, admin = (new_key() for _ in range(4))
    shared = f"{key_line('metrics', metrics, ['scopes=metrics'])}\n{key_line('admin', admin, ['scopes=admin'])}\n"
    write(folder / "gateway-keys", f"{key_line('application', application)}\n{shared}", user)
    write(folder / "worker-keys", f"{key_line('gateway', worker)}\n{shared}", user)
    write(folder / "metrics-key", metrics, user)
    write(folder / "admin-key", admin, user)
    write(folder / "gateway.env", f"WORKER_API_KEY={worker}\n", user)
    print(application)
    if folder == FOLDER:
        PROMETHEUS_DATA.mkdir(exist_ok=True)
        own(PROMETHEUS_DATA, user)
        set_user(ENVIRONMENT, user)
    return 0


def user_of_containers() -> str:
    """`UID:GID`."""
    own = f"{IMAGE_USER}:{IMAGE_USER}" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"
    return os.environ.get(USER_VARIABLE) or own


def write(file: Path, text: str, user: str) -> None:
    """Readable by its owner only, at any time."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
        new.write(text)
    own(file, user)


def own(path: Path, user: str) -> None:
    """Only root can give files away; the files of others belong to them, under whatever number a container sees."""
    if os.getuid() == 0:
        os.chown(path, *map(int, user.split(":")))


def set_user(environment: Path, user: str) -> None:
    """Note the user of the containers in the file, and change nothing else."""
    text = environment.read_text(encoding="utf-8") if environment.exists() else ""
    kept = re.sub(rf"(?m)^{USER_VARIABLE}=.*\n?", "", text)
    end = "" if kept.endswith("\n") or not kept else "\n"
    environment.write_text(f"{kept}{end}{USER_VARIABLE}={user}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))

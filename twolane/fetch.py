"""`twolane weights fetch ID`: download a checkpoint from the Hugging Face hub, resumably, and verify every file.

huggingface_hub starts a file again after an interruption and does not compare digests. Here the bytes of an incomplete
file stay beside it (`.part`) and the next run requests the rest. A file gets its name after its digest was verified.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from twolane.process.errors import WRONG_USE, first_line
from twolane.process.flags import OneLineParser
from twolane.process.hugging_face import FILES, download_problem, is_repo_id, is_temporary

GOOD: Final = 0
FAILED: Final = 1
ATTEMPTS: Final = 5  # consecutive ones without a new byte
BACKOFF_S: Final = 1.0  # before the second of them, then twice as long each time; with jitter
_LONGEST_WAIT_S: Final = 60.0
_CHUNK: Final = 1 << 20
_TIMEOUT_S: Final = 60.0  # without a byte


class FetchError(Exception):
    """The download failed; the message is one line. What has arrived is kept, unless its digest was wrong."""


class FetchRefusedError(FetchError):
    """The download cannot begin: wrong use, no access, or not enough space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of the checkpoint. `digest` is a SHA-256 for large files, else git's SHA-1 of the blob; it is also the
    name of the file in the cache of the hub."""

    name: str
    size: int
    digest: str
    is_sha256: bool

    def hasher(self) -> Any:
        """The hash whose digest is `digest`, before the first byte."""
        return hashlib.sha256() if self.is_sha256 else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file and its place on disk."""

    file: RemoteFile
    url: str
    path: Path

    @property
    def part(self) -> Path:
        """Where the bytes are until they are complete and verified."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def is_complete(self) -> bool:
        """Whether the file is there with its size; `_drop_damaged` verifies contents."""
        return self.path.is_file() and self.path.stat().st_size == self.file.size

    @property
    def missing(self) -> int:
        """Bytes to download."""
        if self.is_complete:
            return 0
        have = self.part.stat().st_size if self.part.is_file() else 0
        return self.file.size - (have if have <= self.file.size else 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0; 1 for an interrupted or failed download, to be run again; 2 if it cannot begin."""
    options = _parse(sys.argv[1:] if argv is None else argv)
    try:
        with _sigterm_interrupts():
            print(fetch(options.checkpoint, options.revision, options.out))
    except KeyboardInterrupt:
        print("twolane weights: interrupted; run the same command to resume", file=sys.stderr)
        return FAILED
    except FetchError as error:
        print(f"twolane weights: {error}", file=sys.stderr)
        return WRONG_USE if isinstance(error, FetchRefusedError) else FAILED
    return GOOD


def fetch(checkpoint: str, revision: str | None = None, out: Path | None = None) -> Path:
    """Download a checkpoint into the folder `out`, or into the cache of the hub, where `twolane worker --checkpoint ID`
    finds it; returns its folder.

    Verifies files that are there already, and prints on stderr the space that it needs before it begins. Raises
    FetchError."""
    if not is_repo_id(checkpoint):
        raise FetchRefusedError(f"{checkpoint}: not an id of the hub (owner/name)")
    commit, files = _listing(checkpoint, revision)
    items = _items(checkpoint, commit, files, out)
    try:
        _drop_damaged(items)
        _check_space(items, items[0].path.parent)
        with _progress() as progress:
            task = progress.add_task(checkpoint, total=sum(item.file.size for item in items))
            for item in items:
                progress.advance(task, item.file.size - item.missing)
                if not item.is_complete:
                    _download(item, lambda count: progress.advance(task, count))
        return out if out is not None else _link(checkpoint, revision, commit)
    except OSError as error:
        raise FetchError(f"{error.filename or checkpoint}: {error.strerror or error}") from error


def _listing(checkpoint: str, revision: str | None) -> tuple[str, tuple[RemoteFile, ...]]:
    """(commit, files of the checkpoint)."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._paths import filter_repo_objects

    try:
        info = HfApi().model_info(checkpoint, revision=revision, files_metadata=True)
    except (OSError, HFValidationError, _transport_error()) as error:
        raise FetchRefusedError(download_problem(checkpoint, revision, error)) from error
    files = tuple(
        RemoteFile(
            name=each.rfilename,
            size=each.size,
            digest=each.lfs.sha256 if each.lfs else str(each.blob_id),
            is_sha256=each.lfs is not None,
        )
        for each in filter_repo_objects(info.siblings or (), allow_patterns=list(FILES), key=lambda one: one.rfilename)
        if each.size is not None and (each.lfs or each.blob_id)
    )
    if info.sha is None or not any(file.name.endswith(".safetensors") for file in files):
        raise FetchRefusedError(f"{checkpoint}: the hub has no weights (*.safetensors) for it")
    return info.sha, files


def _items(checkpoint: str, commit: str, files: Sequence[RemoteFile], out: Path | None) -> tuple[Item, ...]:
    """Places on disk: `out` has the names of the hub; its cache stores files by digest."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=checkpoint, repo_type="model") / "blobs"
    return tuple(
        Item(
            file=file,
            url=hf_hub_url(checkpoint, file.name, revision=commit),
            path=blobs / file.digest if out is None else out / _safe(file.name),
        )
        for file in files
    )


def _safe(name: str) -> Path:
    """The name as a relative path. Raises FetchRefusedError if it would leave the folder."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise FetchRefusedError(f"the hub lists a file with an unsafe name: {name!r}")
    return path


def _drop_damaged(items: Sequence[Item]) -> None:
    """Delete files with the right size but another content: of another revision, or damaged on disk."""
    for item in items:
        if item.is_complete and _digest(item.path, item.file) != item.file.digest:
            item.path.unlink()


def _check_space(items: Sequence[Item], folder: Path) -> None:
    """Print the space that is needed and free. Raises FetchRefusedError if it is not enough."""
    folder.mkdir(parents=True, exist_ok=True)
    missing, whole = sum(item.missing for item in items), sum(item.file.size for item in items)
    free = shutil.disk_usage(folder).free
    print(f"{decimal(whole)} in {folder}: {decimal(missing)} to download, {decimal(free)} free", file=sys.stderr)
    if missing > free:
        raise FetchRefusedError(f"{folder}: {decimal(missing)} are needed, but only {decimal(free)} are free")


def _download(item: Item, advance: Any) -> None:
    """Download the rest of a file, verify it, and give it its name. The lock is held until then."""
    item.part.parent.mkdir(parents=True, exist_ok=True)
    with _locked(item.part) as part:
        if item.is_complete:  # another process has finished it, which verified it
            item.part.unlink()
            return
        if part.tell() > item.file.size:  # of another revision with the same name
            _begin_again(part)
        _get_rest(item, part, advance)
        part.flush()
        os.fsync(part.fileno())
        digest = _digest(item.part, item.file)
        if digest != item.file.digest:
            item.part.unlink()
            raise FetchError(
                f"{item.file.name}: its digest is {digest}, not {item.file.digest}: deleted; run this again"
            )
        item.part.replace(item.path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file, open for appending and locked. Raises FetchRefusedError if another process has locked it."""
    while True:
        with path.open("ab") as part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FetchRefusedError(f"{path}: another process is downloading it") from None
            if _is_at(part, path):
                yield part
                return


def _is_at(part: BinaryIO, path: Path) -> bool:
    """Whether the open file still has this path: its last owner may have renamed it before the lock was free."""
    try:
        return os.path.samestat(os.fstat(part.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _get_rest(item: Item, part: BinaryIO, advance: Any) -> None:
    """Append the missing bytes, with as many requests as necessary. Each requests the bytes after those that arrived.
    Requests without a new byte are repeated after growing waits; one that the hub refuses is not repeated."""
    failures = 0
    while (have := part.tell()) < item.file.size:
        cause, least_wait_s = _get(item, part, advance)
        failures = 0 if part.tell() > have else failures + 1
        if failures >= ATTEMPTS:
            raise FetchError(f"{item.file.name}: {cause}; run the same command to resume")
        if failures:
            backoff_s = BACKOFF_S * 2 ** (failures - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            time.sleep(min(max(backoff_s, least_wait_s), _LONGEST_WAIT_S))


def _get(item: Item, part: BinaryIO, advance: Any) -> tuple[str, float]:
    """One request; returns why it ended, and the least time in seconds before the next one. Raises FetchRefusedError
    if the hub refuses the file."""
    from huggingface_hub import get_session
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    have = part.tell()
    headers = build_hf_headers() | {"Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    try:
        with get_session().stream(
            "GET", item.url, headers=headers, follow_redirects=True, timeout=_TIMEOUT_S
        ) as response:
            hf_raise_for_status(response)
            if have and response.status_code == 200:  # the server sends the whole file: begin again
                _begin_again(part)
                advance(-have)
            for chunk in response.iter_bytes():  # as they arrive: a larger buffer is lost when the connection breaks
                kept = chunk[: item.file.size - part.tell()]
                part.write(kept)
                advance(len(kept))
    except (OSError, _transport_error()) as error:
        return first_line(error), _after_refusal(item, part, error)
    return "the server ended the file early", 0.0


def _after_refusal(item: Item, part: BinaryIO, error: Exception) -> float:
    """The seconds that the server wants a client to wait after an error. Raises FetchRefusedError for a response that
    another request would get again."""
    response = getattr(error, "response", None)
    if response is None:
        return 0.0
    if response.status_code == 416:  # the file of the server is shorter than what is here
        _begin_again(part)
    elif not is_temporary(response.status_code):
        raise FetchRefusedError(download_problem(item.file.name, None, error)) from error
    wait = response.headers.get("Retry-After", "")
    return float(wait) if wait.isdigit() else 0.0


def _begin_again(part: BinaryIO) -> None:
    part.seek(0)
    part.truncate()


def _digest(path: Path, file: RemoteFile) -> str:
    hasher = file.hasher()
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            hasher.update(chunk)
    digest: str = hasher.hexdigest()
    return digest


def _link(checkpoint: str, revision: str | None, commit: str) -> Path:
    """Let huggingface_hub name the files of its cache, where it finds all of them. It is given the commit that was
    verified, because a branch may have moved; the name of the branch then refers to that commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        folder = Path(snapshot_download(checkpoint, revision=commit, allow_patterns=list(FILES)))
    except (OSError, _transport_error()) as error:
        raise FetchError(download_problem(checkpoint, revision, error)) from error
    if revision != commit:
        reference = folder.parents[1] / "refs" / (revision or "main")
        reference.parent.mkdir(parents=True, exist_ok=True)
        partial = reference.with_name(f"{reference.name}.{os.getpid()}.part")
        partial.write_text(commit, encoding="utf-8")
        partial.replace(reference)
    return folder


def _transport_error() -> type[Exception]:
    """The base class of errors of the hub's HTTP client."""
    from huggingface_hub.errors import HfHubHTTPError

    found: type[Exception] = HfHubHTTPError.__bases__[0]
    return found


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="twolane weights", description="Manage the weights of checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    get = commands.add_parser(
        "fetch",
        help="download a checkpoint",
        description="Download a checkpoint from the Hugging Face hub. Resumes an interrupted download, verifies every "
        "file, and prints the space it needs before it begins. HF_TOKEN, HF_HOME and HF_ENDPOINT apply.",
    )
    get.add_argument("checkpoint", metavar="ID", help="id of the checkpoint on the hub (owner/name)")
    get.add_argument("--revision", metavar="REVISION", help="branch, tag or commit (default: main)")
    get.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for the files (default: the cache of huggingface_hub)"
    )
    return parser.parse_args(argv)

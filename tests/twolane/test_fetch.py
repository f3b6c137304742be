"""`twolane weights fetch` against a local hub: resumed, verified, and refused before it begins."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hub_server import COMMIT, Hub, digest_of, serving
from twolane import fetch

FILES = {
    "config.json": b'{"model_type": "diffusion_gemma"}',
    "model-00001-of-00002.safetensors": bytes(range(256)) * 900,
    "model-00002-of-00002.safetensors": bytes(range(255, -1, -1)) * 700,
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"not needed",
}
WANTED = {name: content for name, content in FILES.items() if name != "README.md"}
ROOT = Path(__file__).parents[2]
BIG = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that this process uses, and an empty cache."""
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.001)
    with serving(Hub(files=dict(FILES))) as served:
        served.use(monkeypatch, tmp_path / "cache")
        yield served


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_checkpoint_is_downloaded_once_and_its_space_is_told_before(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert fetch.main(["fetch", hub.model, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    whole = sum(map(len, WANTED.values()))
    assert printed.err.startswith(f"{fetch.decimal(whole)} in {out}: {fetch.decimal(whole)} to download, ")
    assert contents(out) == WANTED
    downloads = len(hub.ranges())
    assert fetch.main(["fetch", hub.model, "--out", str(out)]) == 0
    assert ": 0 bytes to download, " in capsys.readouterr().err
    assert len(hub.ranges()) == downloads


def test_files_in_the_hubs_cache_are_found_by_its_id_without_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_worker.models.checkpoint_source import locate, require

    folder = fetch.fetch(hub.model)
    assert {name: (folder / name).read_bytes() for name in WANTED} == WANTED
    assert folder.is_relative_to(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    requests = len(hub.requests)
    require(hub.model)
    assert locate(hub.model) == folder
    assert len(hub.requests) == requests


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(cut=st.integers(10_000, 300_000), ignores_ranges=st.booleans())
def test_a_connection_that_breaks_again_and_again_delays_the_download_only(
    hub: Hub, tmp_path_factory: pytest.TempPathFactory, cut: int, ignores_ranges: bool
) -> None:
    """Each request asks for what is missing. A server without ranges never gets past the cut."""
    out = tmp_path_factory.mktemp("out")
    hub.cut_after, hub.ignores_ranges, hub.requests = cut, ignores_ranges, []
    whole = len(FILES[BIG])
    if ignores_ranges and cut < whole:
        with pytest.raises(fetch.FetchError, match="run the same command to resume"):
            fetch.fetch(hub.model, out=out)
        return
    fetch.fetch(hub.model, out=out)
    assert contents(out) == WANTED
    asked = [wanted for wanted in hub.ranges() if wanted is not None]
    assert len(asked) >= whole // cut


@pytest.mark.slow
def test_an_interrupted_download_goes_on_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    """The process is terminated in the middle of a file; the next one asks for the rest."""
    hub.cut_after = 100_000
    out = tmp_path / "out"
    code = (
        "import sys, twolane.fetch as f\n"
        "get = f._get\n"
        "def once(item, part, advance):\n"
        "    said = get(item, part, advance); part.flush()\n"
        "    if part.tell() == 100_000: print('half', flush=True); __import__('time').sleep(600)\n"
        "    return said\n"
        "f._get = once\n"
        f"sys.exit(f.main(['fetch', {hub.model!r}, '--out', {str(out)!r}]))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n", process.communicate(timeout=60)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 1
    assert complaint.endswith("interrupted; run the same command to resume\n")
    assert (out / f"{BIG}.part").stat().st_size == 100_000
    hub.cut_after, hub.requests = None, []
    fetch.fetch(hub.model, out=out)
    assert "bytes=100000-" in hub.ranges()
    assert contents(out) == WANTED


@pytest.mark.parametrize("name", [BIG, "config.json"])
def test_another_content_is_refused_and_not_kept(
    name: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.sent = {name: FILES[name][:-1] + b"\1"}
    assert fetch.main(["fetch", hub.model, "--out", str(tmp_path)]) == 1
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert f"{name}: its digest is" in complaint
    assert digest_of(name, FILES[name]) in complaint
    assert not (tmp_path / name).exists()
    assert not (tmp_path / f"{name}.part").exists()
    hub.sent = {}
    fetch.fetch(hub.model, out=tmp_path)
    assert contents(tmp_path) == WANTED


def test_bytes_of_another_revision_are_found_by_the_digest(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / f"{BIG}.part").write_bytes(b"x" * 1000)
    with pytest.raises(fetch.FetchError, match="its digest is"):
        fetch.fetch(hub.model, out=tmp_path)
    (tmp_path / f"{BIG}.part").write_bytes(b"x" * (len(FILES[BIG]) + 1))
    fetch.fetch(hub.model, out=tmp_path)
    assert contents(tmp_path) == WANTED


def test_a_file_of_another_revision_with_the_same_size_is_replaced(hub: Hub, tmp_path: Path) -> None:
    fetch.fetch(hub.model, out=tmp_path)
    hub.files = {name: bytes(reversed(content)) for name, content in FILES.items()}
    fetch.fetch(hub.model, out=tmp_path)
    assert contents(tmp_path) == {name: hub.files[name] for name in WANTED}


def test_a_damaged_file_in_the_hubs_cache_is_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    """Its name is the right digest, and its size is right, too."""
    folder = fetch.fetch(hub.model)
    blob = (folder / BIG).resolve()
    blob.write_bytes(bytes(len(FILES[BIG])))
    assert (fetch.fetch(hub.model) / BIG).read_bytes() == FILES[BIG]


def test_a_branch_that_moves_during_the_download_leads_to_the_files_that_were_verified(hub: Hub) -> None:
    hub.moved = {name: content + b"!" for name, content in FILES.items()}
    folder = fetch.fetch(hub.model)
    assert folder.name == COMMIT
    assert {name: (folder / name).read_bytes() for name in WANTED} == WANTED
    assert (folder.parents[1] / "refs" / "main").read_text() == COMMIT
    moved = fetch.fetch(hub.model)
    assert (moved / BIG).read_bytes() == hub.moved[BIG]
    assert (folder.parents[1] / "refs" / "main").read_text() == moved.name != COMMIT


@pytest.mark.parametrize("status", [401, 403, 404, 400, 410])
def test_a_refused_file_is_not_asked_for_again(
    status: int, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.trouble = [(status, {})] * 9
    assert fetch.main(["fetch", hub.model, "--out", str(tmp_path)]) == 2
    assert len(hub.ranges()) == 1
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert f"{BIG}: " in complaint
    assert ("HF_TOKEN" in complaint) == (status in (401, 403))
    assert (f"HTTP {status}" in complaint) == (status not in (401, 403))


def test_a_server_in_trouble_is_asked_again_after_longer_and_longer_waits(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(fetch, "BACKOFF_S", 1.0)
    monkeypatch.setattr("time.sleep", waits.append)
    hub.trouble = [(500, {}), (503, {}), (429, {"Retry-After": "7"}), (408, {})]
    fetch.fetch(hub.model, out=tmp_path)
    assert contents(tmp_path) == WANTED
    waits = [wait for wait in waits if wait >= 0.5]
    assert len(waits) == 4
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    assert waits[2] >= 7.0
    assert 4.0 <= waits[3] <= 8.0


def test_a_server_whose_file_is_shorter_than_what_is_here_is_read_from_the_start(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / f"{BIG}.part").write_bytes(b"x" * 1000)
    hub.trouble = [(416, {})]
    fetch.fetch(hub.model, out=tmp_path)
    assert contents(tmp_path) == WANTED


def test_a_file_keeps_its_lock_until_it_has_its_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is verified, another process is refused."""
    digest, seen = fetch._digest, list[str]()

    def watched(path: Path, file: fetch.RemoteFile) -> str:
        with pytest.raises(fetch.FetchRefusedError, match="another process is downloading it"), fetch._locked(path):
            pass
        seen.append(path.name)
        return digest(path, file)

    monkeypatch.setattr(fetch, "_digest", watched)
    fetch.fetch(hub.model, out=tmp_path)
    assert seen == [f"{name}.part" for name in WANTED]
    assert contents(tmp_path) == WANTED


def test_a_file_that_another_process_has_finished_meanwhile_is_taken(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives the file its name between this process's look and its lock."""
    locked = fetch._locked

    def finished_before(path: Path) -> object:
        path.with_name(BIG).write_bytes(FILES[BIG])
        return locked(path)

    with monkeypatch.context() as patched:
        patched.setattr(fetch, "_locked", lambda path: finished_before(path) if BIG in path.name else locked(path))
        fetch.fetch(hub.model, out=tmp_path)
    assert contents(tmp_path) == WANTED
    assert len(hub.ranges()) == 1, "only the other large file"


def test_a_lock_on_a_file_that_has_been_renamed_is_not_taken_for_one_on_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    flock, renamed = fetch.fcntl.flock, list[Path]()

    def renames_first(file: object, how: int) -> None:
        if not renamed:
            renamed.append(path.rename(tmp_path / "x"))
        flock(file, how)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fetch.fcntl, "flock", renames_first)
        with fetch._locked(path) as part:
            part.write(b"new")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "x").read_bytes() == b""


def test_without_space_nothing_is_downloaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shutil import _ntuple_diskusage  # type: ignore[attr-defined]

    monkeypatch.setattr("shutil.disk_usage", lambda _path: _ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    assert fetch.main(["fetch", hub.model, "--out", str(tmp_path)]) == 2
    assert "are needed, but only 1.0 kB are free" in capsys.readouterr().err
    assert hub.ranges() == []


def test_two_downloads_of_one_file_do_not_mix(hub: Hub, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "chat_template.jinja.part").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(fetch.FetchRefusedError, match="another process is downloading it"):
            fetch.fetch(hub.model, out=tmp_path)


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((403, "GatedRepo"), "the model is gated: accept its licence on its page of the hub, then set HF_TOKEN"),
        ((401, "RepoNotFound"), "no such model on the hub; if the model is private, set HF_TOKEN"),
        ((403, ""), "the hub refuses access: accept the model's licence"),
        ((404, "RevisionNotFound"), "the hub has no revision 'v2' of it (--revision)"),
        ((500, ""), "the hub failed with HTTP 500; try again later"),
    ],
)
def test_a_refusal_says_what_to_do(
    refusal: tuple[int, str], says: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refusal = refusal
    assert fetch.main(["fetch", hub.model, "--revision", "v2", "--out", str(tmp_path)]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"twolane weights: {hub.model}: ")
    assert says in complaint


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["./folder"], "./folder: not an id of the hub (owner/name)"),
        (["owner/other"], "no such model on the hub"),
        (["owner/model", "--revision", "v2"], "the hub has no revision 'v2'"),
    ],
)
def test_wrong_use_is_reported_in_one_line(
    line: list[str], says: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.main(["fetch", *line, "--out", str(tmp_path)]) == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert complaint.count("\n") == 1


def test_a_hub_without_weights_and_a_name_outside_the_folder_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}"}
    with pytest.raises(fetch.FetchRefusedError, match="has no weights"):
        fetch.fetch(hub.model, out=tmp_path)
    hub.files = {"../outside.safetensors": b"x"}
    with pytest.raises(fetch.FetchRefusedError, match="unsafe name"):
        fetch.fetch(hub.model, out=tmp_path)
    assert COMMIT in hub.revisions

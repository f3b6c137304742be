"""The command line: exit codes, and one line that names the cause."""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from diffusion_worker import app, cli
from diffusion_worker.cli import main
from diffusion_worker.constraints.inference.scratch import IN_USE
from diffusion_worker.settings import read_settings
from training.vocabulary import save_tokenizer

COMMAND = [sys.executable, "-m", "diffusion_worker"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("TWOLANE_")}


@pytest.fixture
def checkpoint(make_library_model: Any, tmp_path: Path) -> Path:
    """Random weights of the real architecture, with the embedded vocabulary."""
    folder = tmp_path / "random-net"
    make_library_model(vocab=272).float().save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 1, "pad_token_id": 0, "max_denoising_steps": 4})
    )
    save_tokenizer(folder)
    return folder


def outcome(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=500, env={**CLEAN, **environment}
    )


def assert_one_line(text: str, named: str) -> None:
    """The text on stderr."""
    assert len(text.splitlines()) == 1, text
    assert text.startswith("twolane worker: ")
    assert named in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--checkpoint"),
        (["--checkpoint", "x", "--port", "high"], "--port: 'high'"),
        (["--checkpoint", "x", "--host", "0.0.0.0"], "--host 0.0.0.0"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_use_ends_at_once_with_2(arguments: list[str], named: str) -> None:
    """As a process, before anything heavy is imported."""
    ended = outcome(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert_one_line(ended.stderr, named)


def test_a_wrong_variable_ends_with_2() -> None:
    """The error names the variable."""
    ended = outcome("--checkpoint", "x", TWOLANE_WORKER_MAX_NUM_SEQS="many")
    assert ended.returncode == 2
    assert_one_line(ended.stderr, "TWOLANE_WORKER_MAX_NUM_SEQS")


def test_a_busy_port_ends_with_2() -> None:
    """Another process listens on the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = outcome("--checkpoint", "x", "--port", str(port))
    assert ended.returncode == 2
    assert_one_line(ended.stderr, f"port {port}: Address already in use")


def test_modules_are_exempt_from_garbage_collection_and_requests_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[object]()
    monkeypatch.setattr(gc, "freeze", lambda: told.append("frozen"))
    monkeypatch.setattr(app, "serve", lambda *_: told.append(gc.isenabled()))
    with socket.create_server(("127.0.0.1", 0)) as public:
        cli._serve(read_settings(["--checkpoint", "x"]), public, None)
    assert told == ["frozen", True]


def test_help_ends_with_0() -> None:
    """On stdout."""
    ended = outcome("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "TWOLANE_WORKER_CHECKPOINT" in ended.stdout


def break_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}")


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def break_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for %}")


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def narrow_vocabulary(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"] |= {f"word{rank}": 272 + rank for rank in range(3)}
    (folder / "tokenizer.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("invalidate", "named"),
    [
        (break_weights, "model.safetensors"),
        (break_tokenizer, "tokenizer.json"),
        (break_template, "chat template"),
        (drop_config, "config.json"),
        (narrow_vocabulary, "275 tokens, but the model has 272"),
    ],
)
def test_a_broken_checkpoint_ends_with_2(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], invalidate: Any, named: str
) -> None:
    """Although the socket was open already: the process ends, and says why."""
    invalidate(checkpoint)
    assert main(["--checkpoint", str(checkpoint), "--port", "0"]) == 2
    assert_one_line(capsys.readouterr().err, named)


def test_a_wrong_keys_file_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before any request without a key is served."""
    (tmp_path / "config.json").write_text("{}")
    keys = tmp_path / "keys"
    keys.write_text("gateway secret\n")
    assert main(["--checkpoint", str(tmp_path), "--port", "0", "--keys-file", str(keys)]) == 2
    assert_one_line(capsys.readouterr().err, f"keys file {keys}, line 1")


def test_too_little_memory_ends_with_2(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The memory plan reports it before any request."""
    assert main(["--checkpoint", str(checkpoint), "--port", "0", "--memory-limit-bytes", "1"]) == 2
    assert_one_line(capsys.readouterr().err, "memory")


TINY = str(Path(__file__).parents[2] / "checkpoints" / "twolane-tiny")


def test_a_plan_prints_a_table_and_writes_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a folder with a config, without serving."""
    file = tmp_path / "plan.json"
    line = ["--plan", TINY, "--memory-limit-bytes", "800000000", "--max-context", "1500", "--json", str(file)]
    assert main(line) == 0
    printed, figures = capsys.readouterr(), json.loads(file.read_text())
    assert printed.err == ""
    assert f"{figures['parameters']:,}" in printed.out
    assert f"constraints (host), bytes {IN_USE:>22,}" in printed.out, "memory beside the device's"
    longest = figures["contexts"][-1]
    assert longest["tokens"] == 1500
    room = int(800_000_000 * 0.92) - figures["weight_bytes"]["float32"] - longest["step_bytes"]
    assert longest["slots"] == room // longest["kv_bytes"] > 0
    numbers = [f"{longest[name]:,}" for name in ("kv_bytes", "step_bytes", "slots")]
    assert printed.out.splitlines()[-4].split() == ["1,500", *numbers]
    assert figures["default_context"] == 2048, "the checkpoint's own"


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        (None, []),
        (
            {"quant_method": "fp8"},
            ["Slots are computed next to the weights as stored, quantised by fp8.", "They stay packed in memory"],
        ),
        ({"quant_method": "torchao"}, ["Quantised by torchao without declared bits: the figures above are"]),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
            [
                "Slots are computed next to the weights as stored, quantised by compressed-tensors.",
                "By default, transformers",
            ],
        ),
    ],
)
def test_a_plan_says_how_it_counts_quantised_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: dict[str, Any] | None, lines: list[str]
) -> None:
    """By declared bits, if declared; and whether the running model stays quantised."""
    config = json.loads((Path(TINY) / "config.json").read_text()) | ({"quantization_config": said} if said else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["--plan", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    tail = printed[printed.index("Not included: other memory of the process.") + 1 :]
    assert [line[: len(start)] for line, start in zip(tail, lines, strict=True)] == lines


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--plan", "/no/such/config.json"], "/no/such/config.json: no such file"),
        (["--plan", __file__], "test_cli.py"),
        (["--plan"], "--plan"),
        (["--plan", TINY, "--memory-limit-bytes", "much"], "--memory-limit-bytes"),
        (["--plan", TINY, "--max-context", "0"], "--max-context"),
        ([f"--plan={TINY}", "--max-context", "4096"], "--max-context: 4096"),
        (["--plan", TINY, "--dtype", "int3"], "--dtype"),
        (["--plan", TINY, "--checkpoint", TINY], "--checkpoint"),
        (["--plan", TINY, "--json", "/no/such/folder/plan.json"], "--json /no/such/folder/plan.json"),
    ],
)
def test_a_plan_that_cannot_be_made_ends_with_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is one line, without a table."""
    try:
        code = main(arguments)
    except SystemExit as ended:  # argparse found it
        code = int(str(ended.code))
    assert code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert_one_line(printed.err, named)


@pytest.mark.slow
def test_a_missing_checkpoint_ends_with_2() -> None:
    """As a process, from the start to the one line."""
    ended = outcome("--checkpoint", "/no/such/folder", "--port", "0")
    assert ended.returncode == 2
    assert_one_line(ended.stderr, "/no/such/folder")


@contextlib.contextmanager
def worker_process(checkpoint: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A serving worker and its first line, with its addresses."""
    line = [*COMMAND, "--checkpoint", str(checkpoint), "--port", "0", "--threads", "1", *more]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CLEAN)
    try:
        assert process.stdout is not None
        opening = process.stdout.readline()
        if "--cold" not in more:
            assert process.stdout.readline() == "twolane worker: random-net is ready\n"
        yield process, opening
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_worker_serves_and_leaves_cleanly_when_told_to(checkpoint: Path) -> None:
    """SIGTERM lets a running answer finish and refuses new ones; then the process ends with 0 and an empty stderr."""
    with (
        worker_process(checkpoint, "--drain-s", "500") as (process, opening),
        httpx.Client(base_url=opening.split()[2], timeout=120) as client,
    ):
        body = {
            "model": "random-net",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 400,
            "stream": True,
        }
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            while client.get("/health").json()["state"] != "draining":
                pass
            refused = client.post("/v1/chat/completions", json={**body, "stream": False})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert list(lines)[-2] == "data: [DONE]"
        assert process.wait(timeout=500) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_cold_worker_loads_unloads_and_leaves_when_told_to(checkpoint: Path) -> None:
    """A worker in exact mode with all sizes set explicitly, used through its admin port."""
    sizes = ["--max-context", "256", "--max-prefill-tokens", "64", "--max-step-tokens", "300", "--prefix-slots", "2"]
    with (
        worker_process(checkpoint, "--cold", "--admin-port", "0", "--exact", *sizes) as (process, opening),
        httpx.Client(timeout=120) as client,
    ):
        assert opening.endswith("random-net is cold\n")
        public, admin = (word.strip("()") for word in opening.replace("),", "").split() if "http" in word)
        assert client.get(f"{public}/health").json()["state"] == "cold"
        assert client.post(f"{admin}/admin/load").json()["state"] == "ready"
        asked = {"model": "random-net", "prompt": "x", "max_tokens": 20, "seed": 1}
        first, again = (client.post(f"{public}/v1/completions", json=asked).json()["choices"] for _ in range(2))
        assert first == again
        too_long = client.post(f"{public}/v1/completions", json={**asked, "prompt": "x" * 300}).json()["error"]
        assert (too_long["code"], too_long["param"]) == ("context_length_exceeded", "prompt")
        assert client.post(f"{admin}/admin/unload", json={"timeout_s": 1}).json()["state"] == "cold"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=500) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_busy_admin_port_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--checkpoint", "x", "--port", "0", "--admin-port", port]) == 2
    assert_one_line(capsys.readouterr().err, f"port {port}: Address already in use")

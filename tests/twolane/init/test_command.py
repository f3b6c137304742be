"""`twolane init` against real servers on loopback: the policy it writes, its output, and the servers that receive a
key."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.policy_files.load import load
from tests.worker.serving import listening, toy_model
from twolane.init import command
from twolane.process.flags import free_port

KEY = "sk-secret-of-the-test"


class Server:
    """An OpenAI-compatible server that lists the given models, and records the keys of requests."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = [{"id": "big-model", "owned_by": "vllm"}]
        self.key: str | None = None
        self.redirect_to: str | None = None
        self.body: bytes | None = None
        self.delay_s = 0.0
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        given = request.headers.get("authorization")
        self.asked.append((request.path, given))
        await asyncio.sleep(self.delay_s)
        if self.redirect_to is not None:
            raise web.HTTPFound(self.redirect_to)
        if self.key is not None and given != f"Bearer {self.key}":
            raise web.HTTPUnauthorized
        if request.path not in ("/v1/models", "/v1beta/openai/models"):
            raise web.HTTPNotFound
        if self.body is not None:
            return web.Response(body=self.body)
        return web.json_response({"object": "list", "data": self.models})


@contextlib.contextmanager
def in_thread(serve: Callable[[], contextlib.AbstractAsyncContextManager[Any]]) -> Iterator[Any]:
    """Run an asynchronous server in its own event loop, because the command runs another one."""
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), []
    stop = asyncio.Event()

    async def run() -> None:
        async with serve() as server:
            found.append(server)
            ready.set()
            await stop.wait()

    def main() -> None:
        try:
            loop.run_until_complete(run())
        finally:
            ready.set()

    thread = threading.Thread(target=main)
    thread.start()
    ready.wait()
    try:
        assert found, "the server did not start"
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
def quality() -> Iterator[Server]:
    with in_thread(scripted) as server:
        yield server


@pytest.fixture(scope="module")
def worker_url() -> Iterator[str]:
    with in_thread(lambda: listening(toy_model())) as served:
        yield str(served.client.base_url).rstrip("/")


@pytest.fixture
def nobody() -> str:
    """A URL on which no server listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEST_KEY", raising=False)


def test_models_are_listed_next_to_the_chat_completions(worker_url: str, quality: Server) -> None:
    assert command.main(["--fast-url", worker_url, "--quality-url", f"{quality.url}/v1beta/openai"]) == 0
    assert [path for path, _ in quality.asked] == ["/v1beta/openai/models"]


def test_models_and_engines_are_found_and_capabilities_told(
    worker_url: str, quality: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--fast-url", worker_url, "--quality-url", f"{quality.url}/v1"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "warning" not in said.out
    fast, fast_can, lane, lane_can = said.out.splitlines()[1:5]
    assert fast == f"fast:    {worker_url}, model diffusion, engine worker, ready"
    assert "json_schema (guaranteed)" in fast_can
    assert fast_can.endswith("(reported by the worker)")
    assert lane == f"quality: {quality.url}/v1, model big-model, engine vllm"
    assert lane_can.endswith("(profile of vllm)")
    policy = load(Path("twolane.yaml"), {})
    assert (policy.targets["fast"].url, policy.targets["fast"].model) == (worker_url, "diffusion")
    assert (policy.targets["quality"].url, policy.targets["quality"].model) == (quality.url, "big-model")


def test_a_key_is_sent_to_its_own_server_only_and_is_written_nowhere(
    quality: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    quality.key = KEY
    with in_thread(scripted) as fast:
        fast.models = [{"id": "diffusion", "owned_by": "vllm"}]
        line = ["--fast-url", fast.url, "--fast-engine", "vllm_diffusion", "--quality-url", quality.url]
        assert command.main([*line, "--quality-key-env", "TEST_KEY"]) == 0
        assert fast.asked == [("/v1/models", None)]
    assert quality.asked == [("/v1/models", f"Bearer {KEY}")]
    said = capsys.readouterr()
    assert "warning" not in said.out
    assert KEY not in said.out + said.err + Path("twolane.yaml").read_text()
    assert load(Path("twolane.yaml"), {}).targets["quality"].key_env == "TEST_KEY"


def test_a_redirect_is_told_and_the_key_does_not_follow_it(
    quality: Server, nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    with in_thread(scripted) as other:
        quality.redirect_to = f"{other.url}/v1/models"
        line = ["--fast-url", nobody, "--quality-url", quality.url, "--quality-model", "m"]
        assert command.main([*line, "--quality-key-env", "TEST_KEY"]) == 0
        assert other.asked == []
    assert "redirects (HTTP 302)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        ([], {}, "requires an API key (HTTP 401): set --quality-key-env"),
        (["--quality-key-env", "TEST_KEY"], {}, "requires an API key (HTTP 401): TEST_KEY is not set"),
        (["--quality-key-env", "TEST_KEY"], {"TEST_KEY": "wrong"}, "rejected the API key in TEST_KEY (HTTP 401)"),
    ],
)
def test_a_server_that_wants_a_key_is_told_with_what_to_do(
    *,
    flags: list[str],
    variables: dict[str, str],
    said: str,
    quality: Server,
    nobody: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quality.key = KEY
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = ["--fast-url", nobody, "--quality-url", quality.url, "--quality-model", "m", *flags]
    assert command.main(line) == 0
    assert f"warning: {quality.url} {said}" in capsys.readouterr().out
    assert command.main([word for word in line if word not in ("--quality-model", "m")] + ["--force"]) == 2
    error = capsys.readouterr().err
    assert error == f"twolane init: --quality-model is required: {quality.url} {said}\n"


def test_servers_that_do_not_answer_are_warnings_and_the_policy_is_written(
    quality: Server, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quality.delay_s = 30.0
    line = ["--fast-url", nobody, "--quality-url", quality.url, "--quality-model", "m", "--timeout", "0.5"]
    assert command.main(line) == 0
    said = capsys.readouterr().out
    assert f"warning: {nobody} cannot be reached: Connection refused" in said
    assert f"warning: {quality.url} did not answer within 0.5 s" in said
    assert load(Path("twolane.yaml"), {}).targets["quality"].model == "m"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 3}', b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_list_of_models_is_a_warning(
    body: bytes, quality: Server, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quality.body = body
    assert command.main(["--fast-url", nobody, "--quality-url", quality.url, "--quality-model", "m"]) == 0
    assert f"{quality.url} does not list its models" in capsys.readouterr().out


def test_several_models_are_named_and_one_must_be_chosen(
    quality: Server, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quality.models = [{"id": f"m{number}"} for number in range(7)]
    line = ["--fast-url", nobody, "--quality-url", quality.url]
    assert command.main(line) == 2
    assert capsys.readouterr().err.endswith("serves m0, m1, m2, m3, m4 and 2 more\n")
    assert not Path("twolane.yaml").exists()
    assert command.main([*line, "--quality-model", "m3"]) == 0
    assert "not found" not in capsys.readouterr().out
    assert command.main([*line, "--quality-model", "m9", "--force"]) == 0
    assert "warning: model m9 not found; available: m0, m1, m2, m3, m4 and 2 more" in capsys.readouterr().out


def test_another_engine_where_a_worker_should_be_is_told(quality: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--fast-url", quality.url, "--quality-url", quality.url]) == 0
    said = capsys.readouterr().out
    assert f"warning: {quality.url} is served by vllm; set --fast-engine" in said


def test_what_a_target_can_do_is_told_as_the_gateway_will_see_it(
    worker_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """For an OpenAI-compatible target the gateway uses its engine profile, even if the server publishes
    capabilities."""
    line = ["--fast-url", worker_url, "--quality-url", worker_url, "--quality-model", "diffusion:autoregressive"]
    assert command.main(line) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition("(")[2] for line in said if " supports " in line] == [
        "reported by the worker)",
        "profile of openai)",
    ]


def test_no_probe_sends_nothing(quality: Server, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--fast-url", quality.url, "--quality-url", quality.url, "--no-probe"]
    assert command.main(line) == 2
    assert "--quality-model is required" in capsys.readouterr().err
    assert command.main([*line, "--quality-model", "m"]) == 0
    assert quality.asked == []


def test_a_file_is_overwritten_only_with_force(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("mine")
    line = ["--quality-url", nobody, "--quality-model", "m", "--no-probe", "--out", "mine.yaml"]
    assert command.main(line) == 2
    told = capsys.readouterr().err
    assert (told.count("\n"), "--force" in told, Path("mine.yaml").read_text()) == (1, True, "mine")
    assert command.main([*line, "--force"]) == 0
    assert load(Path("mine.yaml"), {}).targets["quality"].model == "m"


def test_a_file_that_cannot_be_written_is_one_line(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--quality-url", nobody, "--quality-model", "m", "--no-probe", "--out", "none/here.yaml"]
    assert command.main(line) == 2
    assert capsys.readouterr().err == "twolane init: none/here.yaml: No such file or directory\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([], "--quality-url"),
        (["--quality-url", "llm.example.com"], "expected http://"),
        (["--quality-url", "https://me:hidden@llm.example.com"], "credentials"),
        (["--quality-url", "http://h:port"], "not a URL"),
        (["--quality-url", "http://h", "--quality-engine", "vlm"], "vllm"),
        (["--quality-url", "http://h", "--quality-key-env", "sk-hidden"], "not the key itself"),
        (["--quality-url", "http://h", "--timeout", "0"], "seconds"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(line: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(line)
    told = capsys.readouterr().err
    assert (stop.value.code, told.count("\n")) == (2, 1)
    assert said in told
    assert "hidden" not in told, "it may be a secret"

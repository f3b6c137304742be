"""How targets are called: credentials, redirects, proxies, refused fields and `Retry-After`, over real sockets."""

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp.connector
import orjson
import pytest

from tests.gateway.serving import ask, last_decision
from tests.scripted_server import HANG, Script, scripted_server
from tests.upstream_misbehaviours import DONE, GOOD, TEXT, chunked, data, event, sized, whole

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["aiohttp", "pooled"])
def http_client(request: pytest.FixtureRequest) -> str:
    """Both clients."""
    client: str = request.param
    return client


ROUTE: dict[str, Any] = {"name": "default", "use": "first"}


def policy(url: str, *, second: str = "", route: dict[str, Any] = ROUTE, **first: Any) -> str:
    """A target `first`, and perhaps a fallback `second`."""
    common = {"kind": "openai", "engine": "openai", "model": "m", "location": "external"}
    targets = {"first": {**common, "url": url, **first}}
    if second:
        targets["second"] = {**common, "url": second}
        route = {**route, "fall_back": ["second"]}
    return orjson.dumps({"version": 1, "targets": targets, "routes": [route]}).decode()


def always(*steps: Any) -> Script:
    return lambda head, body: steps


def answer(head: bytes, body: dict[str, Any]) -> tuple[Any, ...]:
    return (chunked(GOOD),) if body.get("stream") else sized(whole())


def lines(head: bytes) -> dict[str, str]:
    """The headers of a request."""
    pairs = (line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
    return {name.lower(): value for name, value in pairs}


# Credentials


async def test_static_headers_and_the_key_are_sent(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_KEY", " 'Bearer sk-1'\r\n")
    monkeypatch.setenv("TEAM_KEY", "team")
    given = {"key_env": "FIRST_KEY", "headers": {"X-Team-Key": "${TEAM_KEY}"}}
    async with scripted_server(answer) as server, serving(policy(f"{server.url}/v1beta/openai", **given)) as gateway:
        assert (await gateway.ask())[0] == 200
    assert server.heads[0].startswith(b"POST /v1beta/openai/chat/completions HTTP/1.1\r\n")
    sent = lines(server.heads[0])
    assert (sent["authorization"], sent["x-team-key"]) == ("Bearer sk-1", "team")


async def test_a_changed_key_file_is_used_within_two_seconds(serving: Any, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    async with scripted_server(answer) as server, serving(policy(server.url, key_file=str(file))) as gateway:
        await gateway.ask()
        file.write_text("KEY=sk-22\n")
        async with asyncio.timeout(60):
            while lines(server.heads[-1])["authorization"] != "Bearer sk-22":
                await gateway.ask()
                await asyncio.sleep(0.01)
    assert lines(server.heads[0])["authorization"] == "Bearer sk-1"


async def test_an_impossible_key_is_named_at_start_and_falls_back(
    serving: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("FIRST_KEY", "sk-\x01")
    async with (
        scripted_server(answer) as first,
        scripted_server(answer) as second,
        serving(policy(first.url, second=second.url, key_env="FIRST_KEY")) as gateway,
    ):
        _, headers, _ = await gateway.ask()
    assert headers["x-twolane-attempts"] == "first=upstream_auth,second=ok"
    assert first.heads == []
    assert "target first: key_env: the variable FIRST_KEY has a character that cannot be sent" in caplog.text


async def test_rejected_credentials_are_not_retried_and_do_not_open_the_breaker(serving: Any) -> None:
    refuses = always(*sized(b'{"error": {"message": "key sk-1 expired"}}', status="401 Unauthorized"))
    async with scripted_server(refuses) as server, serving(policy(server.url, retry={"times": 3})) as gateway:
        answers = [await gateway.ask() for _ in range(8)]
        page = await gateway.metrics()
    assert {(status, body["error"]["code"]) for status, _, body in answers} == {(502, "upstream_auth")}
    assert len(server.heads) == 8
    assert {headers["x-should-retry"] for _, headers, _ in answers} == {"false"}
    assert "sk-1" not in str(answers)
    assert 'twolane_attempts_total{outcome="upstream_auth",route="default",target="first"} 8.0' in page


# Redirects


@pytest.mark.parametrize(
    ("location", "has_key"),
    [("/x?y=1", True), ("{url}/x", True), ("{other}/x", False)],
)
async def test_a_redirect_to_another_origin_on_the_host_does_not_get_the_credentials(
    serving: Any, monkeypatch: pytest.MonkeyPatch, location: str, has_key: bool
) -> None:
    monkeypatch.setenv("FIRST_KEY", "sk-1")
    async with scripted_server(answer) as other:

        def script(head: bytes, body: dict[str, Any]) -> tuple[Any, ...]:
            to = location.format(url=server.url, other=other.url)
            moved = sized(b"", f"Location: {to}", status="308 Permanent Redirect")
            return answer(head, body) if head.startswith(b"POST /x") else moved

        async with scripted_server(script) as server:
            given = {"key_env": "FIRST_KEY", "headers": {"x-secret": "s"}}
            async with serving(policy(server.url, **given)) as gateway:
                status, _, body = await gateway.ask()
    assert (status, body["choices"][0]["message"]["content"]) == (200, TEXT)
    last = lines((other.heads or server.heads)[-1])
    assert (last.get("authorization"), last.get("x-secret")) == (("Bearer sk-1", "s") if has_key else (None, None))


# Fields that a target refuses


@pytest.mark.parametrize("status", ["422 Unprocessable Entity", "400 Bad Request", "500 Internal Server Error"])
async def test_a_target_that_refuses_stream_options_is_called_without_them_and_remembered(
    serving: Any, status: str
) -> None:
    refusal = {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]}

    def script(head: bytes, body: dict[str, Any]) -> tuple[Any, ...]:
        return sized(orjson.dumps(refusal), status=status) if "stream_options" in body else answer(head, body)

    async with scripted_server(script) as server, serving(policy(server.url)) as gateway:
        for _ in range(3):
            _, headers, body = await gateway.ask(ask(stream=True))
            assert b"hello" in body
            assert headers["x-twolane-attempts"] == "first=ok"
        await gateway.ask(ask())
    assert ["stream_options" in body for body in server.bodies] == [True, False, False, False, False]


async def test_another_refusal_is_no_reason_to_leave_the_field_out(serving: Any) -> None:
    wrong = always(*sized(b'{"error": {"message": "stream_options? No: messages are wrong"}}', status="400 Bad"))
    async with scripted_server(wrong) as server, serving(policy(server.url)) as gateway:
        for _ in range(2):
            status, _, _ = await gateway.ask(ask(stream=True))
            assert status == 400
    assert ["stream_options" in body for body in server.bodies] == [True, False, True, False]


REFUSALS: dict[str, Any] = {
    "pydantic": {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]},
    "param": {"error": {"message": "Unknown parameter", "param": "stream_options"}},
    "pydantic-in-a-message": {
        "object": "error",
        "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]},
    },
    "elsewhere": {"title": "Bad request", "errors": {"stream_options": ["Unknown field."]}},
    "its-member": {"error": {"message": "include_usage is not supported"}},
    "message": {"error": {"message": "property 'stream_options' is unsupported"}},
    "older-message": {"message": "Unrecognized request argument supplied: stream_options", "object": "error"},
    "text": "Failed to deserialize the JSON body: unknown field `stream_options`, expected one of `model`",
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("prompt", ["hi", "what are stream_options?", "what are \\u0073tream_options?"])
async def test_a_prompt_that_the_target_repeats_does_not_decide_how_it_is_called(
    serving: Any, name: str, prompt: str
) -> None:
    """What the target says in its own words does, and each request is served either way."""
    refusal = REFUSALS[name] if isinstance(REFUSALS[name], str) else json.dumps(REFUSALS[name])

    def script(head: bytes, body: dict[str, Any]) -> tuple[Any, ...]:
        refused = sized(refusal.encode(), status="400 Bad Request")
        return refused if "stream_options" in body else answer(head, body)

    sent = json.dumps(ask("PROMPT", stream=True, stream_options={"include_usage": False})).replace("PROMPT", prompt)
    async with scripted_server(script) as server, serving(policy(server.url)) as gateway:
        for _ in range(2):
            assert b"hello" in (await gateway.ask(sent.encode()))[2]
    learned = name in ("pydantic", "param", "pydantic-in-a-message") or prompt == "hi"
    seen = [True, False, False] if learned else [True, False] * 2
    assert ["stream_options" in body for body in server.bodies] == seen


@pytest.mark.parametrize("form", ["{}", '{{"error": {{"message": "cannot read: {}", "param": "messages"}}}}'])
async def test_an_error_that_repeats_the_prompt_changes_nothing_for_others(serving: Any, form: str) -> None:
    def script(head: bytes, body: dict[str, Any]) -> tuple[Any, ...]:
        said = body["messages"][-1]["content"]
        return answer(head, body) if said == "hi" else sized(form.format(said).encode(), status="400 Bad Request")

    async with scripted_server(script) as server, serving(policy(server.url)) as gateway:
        assert (await gateway.ask(ask("no stream_options", stream=True)))[0] == 400
        assert b"hello" in (await gateway.ask(ask(stream=True)))[2]
    assert "stream_options" in server.bodies[-1]


# Retry-After


@pytest.mark.parametrize(
    ("lines_", "status", "at_least_s", "at_most_s"),
    [
        (["Retry-After: 60"], "429 Too Many Requests", 50, 60),
        (["retry-after-ms: 90000", "Retry-After: 1"], "429 Too Many Requests", 80, 90),
        (
            ["Date: Sun, 06 Nov 1994 08:49:37 GMT", "Retry-After: Sun, 06 Nov 1994 08:50:37 GMT"],
            "429 Too Many Requests",
            50,
            60,
        ),
        (["Retry-After: 86400"], "429 Too Many Requests", 290, 300),
        (["Retry-After: 60"], "503 Service Unavailable", 50, 60),
    ],
)
async def test_a_target_is_not_called_before_the_time_that_it_asked_for(
    serving: Any, lines_: list[str], status: str, at_least_s: int, at_most_s: int
) -> None:
    limited = always(*sized(b"{}", *lines_, status=status))
    async with scripted_server(limited) as server, serving(policy(server.url)) as gateway:
        answers = [await gateway.ask() for _ in range(8)]
    assert len(server.heads) == 1
    expected = (429, "rate_limit_exceeded") if status.startswith("429") else (503, "overloaded")
    assert {(got, body["error"]["code"]) for got, _, body in answers} == {expected}
    assert all(at_least_s <= int(headers["retry-after"]) <= at_most_s for _, headers, _ in answers)
    assert answers[-1][1]["x-twolane-attempts"] == "first=overloaded"


@pytest.mark.parametrize(
    "status", ["500 Oops", "502 Bad Gateway", "504 Gateway Time-out", "408 Request Timeout", "403 Forbidden"]
)
async def test_the_time_that_a_target_asked_for_counts_whatever_its_fault(serving: Any, status: str) -> None:
    limited = always(*sized(b"{}", "Retry-After: 60", status=status))
    async with scripted_server(limited) as server, serving(policy(server.url)) as gateway:
        first, *others = [await gateway.ask() for _ in range(3)]
    assert len(server.heads) == 1
    assert {headers["x-twolane-attempts"] for _, headers, _ in others} == {"first=overloaded"}
    assert (first[1]["retry-after"], others[0][1]["retry-after"]) == ("60", "60")


async def test_a_model_that_is_not_loaded_is_not_asked_before_the_time_that_it_named(serving: Any) -> None:
    loading = always(*sized(b'{"error": {"code": "loading"}}', "Retry-After: 60", status="503 Not Loaded"))
    async with scripted_server(loading) as server, serving(policy(server.url)) as gateway:
        answers = [await gateway.ask() for _ in range(3)]
    assert len(server.heads) == 1
    assert [headers["x-twolane-attempts"] for _, headers, _ in answers] == ["first=not_resident"] + 2 * [
        "first=overloaded"
    ]


async def test_a_refused_request_keeps_no_other_one_from_the_target(serving: Any) -> None:
    refuses = always(*sized(b"{}", "Retry-After: 60", status="400 Bad Request"))
    async with scripted_server(refuses) as server, serving(policy(server.url)) as gateway:
        assert [(await gateway.ask())[0] for _ in range(3)] == [400] * 3
    assert len(server.heads) == 3


async def test_while_a_target_waits_the_next_one_answers(serving: Any) -> None:
    limited = always(*sized(b"{}", "Retry-After: 60", status="429 Too Many Requests"))
    async with (
        scripted_server(limited) as first,
        scripted_server(answer) as second,
        serving(policy(first.url, second=second.url)) as gateway,
    ):
        answers = [await gateway.ask() for _ in range(4)]
        decision = await last_decision(gateway, answers[-1][1])
    assert [status for status, _, _ in answers] == [200] * 4
    assert (len(first.heads), len(second.heads)) == (1, 4)
    assert "asked to be called again" in decision["attempts"][0]["detail"]


async def test_the_longest_wait_is_a_key_of_the_target(serving: Any) -> None:
    limited = always(*sized(b"{}", "Retry-After: 60", status="429 Too Many Requests"))
    async with scripted_server(limited) as server, serving(policy(server.url, retry_after_max_s=0)) as gateway:
        for _ in range(3):
            await gateway.ask()
    assert len(server.heads) == 3


# Targets that hang


async def test_a_target_that_hangs_opens_its_breaker_and_a_client_s_own_deadline_does_not(serving: Any) -> None:
    async with scripted_server(always(HANG)) as server:
        hurried, patient = ({**ROUTE, "deadline_ms": ms} for ms in (60_000, 150))
        async with serving(policy(server.url, route=hurried)) as gateway:
            for _ in range(7):
                status, headers, _ = await gateway.ask(x_twolane_deadline_ms="20")
                assert (status, headers["x-twolane-attempts"]) == (504, "first=deadline")
        async with serving(policy(server.url, route=patient)) as gateway:
            outcomes = list[str]()
            while outcomes[-1:] != ["first=circuit_open"]:
                assert len(outcomes) < 200
                outcomes.append((await gateway.ask())[1]["x-twolane-attempts"])
    # A busy machine may spend a deadline before the target is called: that is not the target's failure.
    assert set(outcomes[:-1]) == {"first=deadline"}
    assert len(outcomes) > 5


# Proxies


@contextlib.asynccontextmanager
async def forward_proxy() -> AsyncIterator[Any]:
    """A small proxy: tunnels CONNECT, and forwards absolute URLs. `seen` are its request lines, with credentials."""
    seen: list[tuple[str, str | None]] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            seen.append((f"{method} {target}", lines(head).get("proxy-authorization")))
            address = target.removeprefix("http://").partition("/")[0]
            host, _, port = address.rpartition(":")
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                up_writer.write(head.replace(f"http://{address}".encode(), b"", 1))
            await asyncio.gather(pipe(reader, up_writer), pipe(up_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://user:p%40ss@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield type("Proxy", (), {"url": url, "seen": seen})
    finally:
        server.close()


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies of its own."""
    for name in list(os.environ):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


CREDENTIALS = "Basic dXNlcjpwQHNz"


async def test_an_external_target_is_called_through_the_proxy(serving: Any, no_proxies: pytest.MonkeyPatch) -> None:
    async with forward_proxy() as proxy, scripted_server(answer) as server:
        no_proxies.setenv("HTTP_PROXY", proxy.url)
        async with serving(policy(server.url)) as gateway:
            status, _, body = await gateway.ask()
            _, _, streamed = await gateway.ask(ask(stream=True))
    assert (status, body["choices"][0]["message"]["content"]) == (200, TEXT)
    assert streamed.endswith(DONE)
    assert proxy.seen[0] == (f"POST {server.url}/v1/chat/completions", CREDENTIALS)


@pytest.mark.parametrize("given", [{"location": "in_cluster"}, {}])
async def test_targets_in_the_cluster_and_hosts_in_no_proxy_are_called_directly(
    serving: Any, no_proxies: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    async with forward_proxy() as proxy, scripted_server(answer) as server:
        no_proxies.setenv("ALL_PROXY", proxy.url)
        no_proxies.setenv("NO_PROXY", "" if given else "127.0.0.0/8")
        async with serving(policy(server.url, **given)) as gateway:
            assert (await gateway.ask())[0] == 200
    assert proxy.seen == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_https_is_tunnelled_and_the_certificate_is_verified(
    serving: Any, no_proxies: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, [*command.split(), *names], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with forward_proxy() as proxy, scripted_server(answer, ssl=context) as server:
        no_proxies.setenv("https_proxy", proxy.url)
        port = server.url.rpartition(":")[2]
        async with serving(policy(f"https://localhost:{port}/v1")) as gateway:
            _, headers, _ = await gateway.ask()
            assert headers["x-twolane-attempts"] == "first=upstream_error"  # the certificate is unknown
        trusted = ssl.create_default_context(cafile=str(certificate))
        no_proxies.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusted)
        async with serving(policy(f"https://localhost:{port}/v1")) as gateway:
            status, _, _ = await gateway.ask()
    assert status == 200
    assert set(proxy.seen) == {(f"CONNECT localhost:{port}", CREDENTIALS)}


async def test_a_proxy_that_is_down_or_unsupported_is_an_upstream_error(
    serving: Any, no_proxies: pytest.MonkeyPatch
) -> None:
    async with scripted_server(answer) as server:
        for value in ("http://127.0.0.1:9", "socks5://127.0.0.1:9"):
            no_proxies.setenv("HTTP_PROXY", value)
            async with serving(policy(server.url)) as gateway:
                status, headers, body = await gateway.ask()
                decision = await last_decision(gateway, headers)
            assert (status, body["error"]["code"]) == (502, "upstream_error")
            assert "proxy" in decision["attempts"][0]["detail"].lower()
    assert server.heads == []


async def test_a_second_choice_may_begin_long_after_the_first_has_ended(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.upstreams.http._TRAILER_S", 0.01)
    first = event({"content": "one"}) + event({}, "stop")
    second = event({"content": "two"}, choice={"index": 1}) + event({}, "stop", choice={"index": 1}) + DONE
    late = always(chunked(first, end=False), 0.1, b"%x\r\n%s\r\n0\r\n\r\n" % (len(second), second))
    async with scripted_server(late) as server, serving(policy(server.url)) as gateway:
        _, _, body = await gateway.ask(ask(stream=True, n=2))
    assert b'"two"' in body
    assert body.endswith(DONE)


async def test_an_event_without_choices_does_not_hold_back_the_text(serving: Any) -> None:
    """Pings arrive while the model thinks: the text that follows is the first byte."""
    pings = always(chunked(data('{"type": "ping"}'), event({"content": TEXT}), event({}, "stop") + DONE))
    async with scripted_server(pings) as server, serving(policy(server.url)) as gateway:
        _, _, body = await gateway.ask(ask(stream=True))
    assert b"ping" not in body
    assert TEXT.encode() in body


async def test_output_that_runs_away_is_found_where_a_target_streams_a_whole_answer(serving: Any) -> None:
    """It never ends: without the check, the request would wait for its deadline."""
    runs = [event({"content": '{"n": 1'})] + [event({"content": " " * 100})] * 60
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    good = sized(whole({"role": "assistant", "content": '{"n": 1}'}))
    async with (
        scripted_server(always(chunked(*runs, end=False), HANG)) as first,
        scripted_server(always(*good)) as second,
        serving(policy(first.url, second=second.url)) as gateway,
    ):
        status, headers, body = await gateway.ask(ask(response_format=form))
        decision = await last_decision(gateway, headers)
    assert (status, body["choices"][0]["message"]["content"]) == (200, '{"n": 1}')
    assert headers["x-twolane-attempts"] == "first=invalid_output,second=ok"
    assert decision["attempts"][0]["detail"] == "whitespace_runaway at #"


@pytest.mark.parametrize("odd", [b"1e999", b"1" * 5000])
async def test_an_answer_that_needs_repair_and_cannot_be_written_again_falls_back(serving: Any, odd: bytes) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    broken = whole({"role": "assistant", "content": '{"n": 1'}).replace(b'"id"', b'"x": ' + odd + b', "id"', 1)
    good = whole({"role": "assistant", "content": '{"n": 1}'})
    route = {**ROUTE, "validate": {"schema": "request", "buffer": "full", "repair": "syntax"}}
    async with (
        scripted_server(always(*sized(broken))) as first,
        scripted_server(always(*sized(good))) as second,
        serving(policy(first.url, second=second.url, route=route)) as gateway,
    ):
        status, headers, _ = await gateway.ask(ask(response_format=form))
    assert status == 200
    assert headers["x-twolane-attempts"] == "first=invalid_output,second=ok"

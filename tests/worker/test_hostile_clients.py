"""Hostile clients of the worker: ordinary ones are answered beside them, and afterwards nothing of them is left."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_worker.app import listener_of
from diffusion_worker.constraint_service.compiler_pool import CompilerPool
from diffusion_worker.constraint_service.job_pool import Times
from tests.header_values import ODD_VALUES
from tests.worker.serving import CHAT, MODEL, Served, build, listening, serving, toy_model, until
from twolane.process.api_keys import key_line

pytestmark = pytest.mark.anyio
# A busy machine gives the attackers, too, little time to send what they are to be refused for.
QUICK = {"head_timeout_s": 1.5, "body_timeout_s": 1.0, "write_timeout_s": 1.0}
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: worker\r\ncontent-type: application/json\r\n".encode()


def chat(text: str = "hi", **fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}).encode()


def request(body: bytes, more: bytes = b"") -> bytes:
    return HEAD + more + b"content-length: %d\r\n\r\n" % len(body) + body


def port_of(served: Served) -> int:
    port = served.client.base_url.port
    assert port is not None
    return port


async def everything(served: Served, sent: bytes, *, shut: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(served))
    with contextlib.closing(writer):
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            if shut:
                writer.write_eof()
        return await reader.read()


def status_and_code(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@contextlib.asynccontextmanager
async def attacked(**settings: Any) -> AsyncIterator[Served]:
    async with listening(toy_model(), **{**QUICK, **settings}) as served:
        yield served
        await until(lambda: served.worker.serving_state.byte_budget.used == 0)
        await until(lambda: served.engine.status().running == served.engine.status().waiting == 0)


ATTACKS = {
    "endless head": (HEAD + b"x: " + b"a" * 1_000_000, (431, "headers_too_large")),
    "head that stops": (HEAD, (408, "request_timeout")),
    "body that stops": (HEAD + b"content-length: 9\r\n\r\n{", (408, "request_timeout")),
    "deep body": (request(b"[" * 300_000, b"connection: close\r\n"), (400, "invalid_json")),
    "wide body": (request(b'{"x":[' + b"[]," * 600_000 + b"[]]}", b"connection: close\r\n"), (400, "invalid_json")),
    "repeated key": (request(b'{"model":"a","model":"b"}', b"connection: close\r\n"), (400, "invalid_json")),
    "UTF-16": (request(chat().decode().encode("utf-16"), b"connection: close\r\n"), (400, "invalid_json")),
    "smuggled": (HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", (400, "invalid_http")),
    "many messages": (
        request(json.dumps({"model": MODEL, "messages": [{"role": "user", "content": ""}] * 5000}).encode(),
                b"connection: close\r\n"),
        (400, "invalid_value"),
    ),
}  # fmt: skip


async def test_ordinary_clients_are_answered_beside_every_kind_of_hostile_one() -> None:
    async with attacked() as served:
        attacks = {name: asyncio.create_task(everything(served, sent)) for name, (sent, _) in ATTACKS.items()}
        while not all(attack.done() for attack in attacks.values()):
            assert (await served.ask()).status_code == 200
        assert {name: status_and_code(attack.result()) for name, attack in attacks.items()} == {
            name: expected for name, (_, expected) in ATTACKS.items()
        }
        page = (await served.client.get("/metrics")).text
        for reason in ("head_size", "head_timeout", "body_timeout", "malformed"):
            assert f'twolane_worker_refused_total{{reason="{reason}"}}' in page


HEADERS = (
    "authorization",
    "content-type",
    "content-encoding",
    "traceparent",
    "x-request-id",
    "host",
    "x-twolane-deadline-ms",
)


async def test_no_header_and_no_path_is_an_internal_error() -> None:
    async with attacked() as served:
        for name in HEADERS:
            for value in ODD_VALUES:
                line = b"%b: %b\r\nconnection: close\r\n" % (name.encode(), value)
                head = HEAD.replace(b"host: worker\r\n", b"") if name == "host" else HEAD
                body = chat(max_tokens=1)
                answer = await everything(served, head + line + b"content-length: %d\r\n\r\n" % len(body) + body)
                assert int(answer.split()[1]) in (200, 400, 401, 415, 504), (name, value, answer)
        for method in (b"GET", b"POST", b"PUT", b"TRACE"):
            for path in (b"/%ff%00%0d%0a", b"//v1/models", b"/v1/models/%2e%2e", b"/v1/models/%ed%a0%80", b"*"):
                line = method + b" " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
                answer = await everything(served, line)
                assert int(answer.split()[1]) in (200, 400, 404, 405), (method, path, answer)


async def test_a_half_closed_client_is_answered_however_long_it_takes() -> None:
    """Longer than the connection takes to find out whether the client has left."""
    toy = toy_model("y" * 80, seconds_per_pass=0.01)
    async with listening(toy, **QUICK) as served:
        answer = await everything(served, request(b"\xef\xbb\xbf" + chat(max_tokens=80)), shut=True)
        final = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert final.startswith(b"HTTP/1.1 200")
        assert b"y" * 80 in final


async def test_head_has_the_headers_of_get_without_a_body() -> None:
    async with attacked() as served:
        for path in (b"/health", b"/v1/models"):
            answer = await everything(served, b"HEAD %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path)
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"\r\n\r\n")


def test_the_limits_of_connections_are_settings() -> None:
    times = {"head_timeout_s": 1.0, "body_timeout_s": 2.0, "keep_alive_s": 3.0, "write_timeout_s": 4.0}
    limits = listener_of(build(toy_model(), **times)).limits
    assert (limits.head_s, limits.body_s, limits.keep_alive_s, limits.write_s) == (1.0, 2.0, 3.0, 4.0)


def test_the_bytes_of_requests_that_nobody_reads_yet_are_within_the_budget() -> None:
    worker = build(toy_model())
    assert listener_of(worker).budget is worker.serving_state.byte_budget


def noting(encode: Any, sizes: list[int]) -> Any:
    def noted(tokenizer: Any, text: str) -> Any:
        sizes.append(len(text))
        return encode(tokenizer, text)

    return noted


@pytest.mark.parametrize("field", ["messages", "prompt", "suffix", "prediction"])
async def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(toy_model()) as served:
        tokenization = served.worker.serving_state.tokenization
        assert tokenization is not None
        encoded: list[int] = []
        library = type(tokenization.tokenizer)
        originals = {name: getattr(library, name) for name in ("encode", "encode_plain")}
        for name, original in originals.items():
            monkeypatch.setattr(library, name, noting(original, encoded))
        text = "word " * 500_000
        fields = {"prediction": {"type": "content", "content": text}} if field == "prediction" else {field: text}
        if field == "messages":
            answer = await served.ask(text)
        elif field == "prediction":
            answer = await served.ask(**fields)
        else:
            body = {"model": MODEL, "prompt": "a", **fields}
            answer = await served.client.post("/v1/completions", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", field)
        assert max(encoded, default=0) < 1000


async def test_bodies_beyond_the_budget_are_refused_before_they_are_read() -> None:
    size = 1_000_000
    async with attacked(max_body_bytes=2 * size, max_inflight_bytes=3 * size, body_timeout_s=60.0) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(served))
        writer.write(HEAD + b"content-length: %d\r\n\r\n{" % (2 * size))
        await until(lambda: served.worker.serving_state.byte_budget.used == 2 * size)
        answer = await everything(served, HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % (2 * size))
        assert status_and_code(answer) == (503, "overloaded")
        assert b"retry-after: 1\r\n" in answer
        page = (await served.client.get("/metrics")).text
        assert float(page.partition("\ntwolane_worker_bytes_in_flight ")[2].partition("\n")[0]) == 2 * size
        assert (await served.ask()).status_code == 200
        writer.close()


def schema_bomb(number: int) -> dict[str, Any]:
    """450 patterns for keys, each of which may match any other."""
    patterns = {f"^[a-z{number}]{{0,{at % 40}}}{at}": {"type": "integer", "minimum": at} for at in range(450)}
    return constrained({"type": "object", "patternProperties": patterns})


def constrained(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@pytest.mark.slow
@pytest.mark.parametrize("with_keys", [True, False], ids=["another key", "no keys"])
async def test_schema_bombs_do_not_keep_other_schemas_waiting(with_keys: bool, tmp_path: Path) -> None:
    """Each of those ends in a typed error or an answer; a machine too busy to give it its processor time says so."""
    keys = tmp_path / "keys"
    keys.write_text(f"{key_line('bomber', 'sk-b')}\n{key_line('innocent', 'sk-i')}\n")
    settings: dict[str, Any] = {"constraint_cache": None, **({"keys_file": keys} if with_keys else {})}
    async with serving(toy_model("{}"), **settings) as served:
        pool = CompilerPool(compiling=Times(quick_s=0.3, limit_s=0.4, wait_s=60.0))
        served.worker.serving_state.constraint_service._pool = pool
        bomber, innocent = ({"authorization": f"Bearer {key}"} for key in ("sk-b", "sk-i"))
        assert (await served.ask(headers=innocent, **constrained({"enum": [0]}))).status_code == 200  # warm
        bombs = [asyncio.create_task(served.ask(headers=bomber, **schema_bomb(number))) for number in range(4)]
        await until(lambda: len(pool._compilers._queue) > 0)
        for number in range(2):
            schema = {"type": "object", "properties": {f"p{number}": {"type": "boolean"}}}
            assert (await served.ask(headers=innocent, **constrained(schema))).status_code == 200
            assert number or not all(bomb.done() for bomb in bombs)
        for bomb in await asyncio.gather(*bombs):
            if bomb.status_code != 200:
                error = (bomb.status_code, bomb.json()["error"]["code"])
                assert error in ((400, "unsupported_schema"), (503, "overloaded"))

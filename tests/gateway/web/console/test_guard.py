"""The console's guard: sessions, cross-site requests, and requests of the playground."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.web.console.sessions import Sessions
from twolane.process.api_keys import key_line, load_keys

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  only: {kind: openai, engine: openai, url: "%s", model: m, location: in_cluster}
routes:
  - {name: default, use: only}
limits:
  - {keys: [slow], requests_per_minute: 1}
"""
OWN = {"x-twolane-console": "1", "content-type": "application/json"}
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    scopes = {"boss": "admin", "app": "ask", "slow": "ask"}
    file.write_text("".join(key_line(name, f"sk-{name}", [f"scopes={value}"]) + "\n" for name, value in scopes.items()))
    return file


@pytest.fixture
async def locked(fake: Any, serving: Any, keys_file: Path) -> AsyncIterator[Any]:
    async with fake() as server, serving(POLICY % server.url, keys_file=keys_file) as gateway:
        yield gateway


@pytest.fixture
async def unlocked(fake: Any, serving: Any) -> AsyncIterator[Any]:
    async with fake() as server, serving(POLICY % server.url) as gateway:
        yield gateway


async def call(gateway: Any, method: str, path: str, headers: Any = None, json: Any = None) -> tuple[int, Any, Any]:
    url = f"{gateway.admin_url}{path}"
    async with gateway.client.request(method, url, headers=headers or {}, json=json) as response:
        is_json = response.content_type == "application/json"
        return response.status, response.headers, await (response.json() if is_json else response.text())


async def sign_in(gateway: Any, key: str = "sk-boss") -> str:
    status, headers, _ = await call(gateway, "POST", "/console/session", OWN, {"key": key})
    assert status == 204
    return str(headers["set-cookie"])


async def test_a_session_is_a_strict_cookie_that_holds_no_key(locked: Any) -> None:
    cookie = await sign_in(locked)
    assert {"HttpOnly", "SameSite=Strict", "Path=/console"} <= {part.strip() for part in cookie.split(";")}
    assert "sk-boss" not in cookie
    session = cookie.partition(";")[0]
    locked.client.cookie_jar.clear()
    assert (await call(locked, "GET", "/console/api/session"))[0] == 401
    assert (await call(locked, "GET", "/console/api/session", {"cookie": session}))[0] == 200
    forged = session.replace("boss", "app")
    assert (await call(locked, "GET", "/console/api/session", {"cookie": forged}))[0] == 401
    assert (await call(locked, "GET", "/metrics", {"cookie": session}))[0] == 401, "it opens nothing else"


@pytest.mark.parametrize("key", ["sk-app", "sk-nobody", ""])
async def test_only_a_key_with_the_scope_admin_signs_in(locked: Any, key: str) -> None:
    status, headers, body = await call(locked, "POST", "/console/session", OWN, {"key": key})
    assert (status, body["error"]["code"], "set-cookie" in headers) == (401, "invalid_api_key", False)


def test_a_session_ends_when_its_key_is_revoked(keys_file: Path) -> None:
    now = [1000.0]
    sessions = Sessions(keys=lambda: load_keys(keys_file), wall_s=lambda: now[0])
    cookie = sessions.begin(b"sk-boss")
    assert cookie is not None
    assert sessions.find(cookie) is not None
    assert Sessions(keys=sessions.keys, wall_s=sessions.wall_s).find(cookie) is None, "another secret"
    now[0] += 12 * 3600
    assert sessions.find(cookie) is None, "expired"
    now[0] = 1000.0
    keys_file.write_text(key_line("boss", "sk-another", ["scopes=admin"]) + "\n")
    assert sessions.find(cookie) is None, "the key was replaced"


@pytest.mark.parametrize("name", ["boss@example.com", "ключ", "鍵" * 64])
async def test_every_name_of_a_key_can_sign_in(fake: Any, serving: Any, tmp_path: Path, name: str) -> None:
    """Headers are Latin-1; names are not."""
    file = tmp_path / "keys"
    file.write_text(key_line(name, "sk-boss", ["scopes=admin"]) + "\n")
    async with fake() as server, serving(POLICY % server.url, keys_file=file) as gateway:
        session = (await sign_in(gateway)).partition(";")[0]
        assert session.isascii()
        gateway.client.cookie_jar.clear()
        assert (await call(gateway, "GET", "/console/api/session", {"cookie": session}))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_pages_of_other_origins_are_refused(locked: Any, headers: dict[str, str]) -> None:
    session = (await sign_in(locked)).partition(";")[0]
    for method, path in (("GET", "/console/api/keys"), ("POST", "/console/send/v1/chat/completions")):
        given = {**OWN, "cookie": session, "authorization": "Bearer sk-app", **headers}
        status, _, body = await call(locked, method, path, given, CHAT if method == "POST" else None)
        assert (status, body["error"]["code"]) == (403, "forbidden_origin")


async def test_requests_that_change_something_need_the_consoles_own_header(locked: Any) -> None:
    session = (await sign_in(locked)).partition(";")[0]
    plain = {"cookie": session, "authorization": "Bearer sk-app", "content-type": "application/json"}
    for method, path in (("POST", "/console/send/v1/chat/completions"), ("DELETE", "/console/session")):
        assert (await call(locked, method, path, plain, CHAT))[0] == 403
    origin = {"origin": locked.admin_url, "sec-fetch-site": "same-origin"}
    status, _, body = await call(locked, "POST", "/console/send/v1/chat/completions", {**plain, **OWN, **origin}, CHAT)
    assert (status, body["choices"][0]["message"]["content"]) == (200, "hello")


async def test_the_playground_sends_under_the_key_that_was_entered_and_within_its_limits(locked: Any) -> None:
    session = (await sign_in(locked)).partition(";")[0]
    path = "/console/send/v1/chat/completions"

    async def status_of(key: str | None) -> tuple[int, Any, Any]:
        given = {**OWN, "cookie": session} | ({"authorization": f"Bearer {key}"} if key else {})
        return await call(locked, "POST", path, given, CHAT)

    assert (await status_of(None))[0] == 401
    assert (await status_of("sk-boss"))[0] == 403, "it lacks the scope"
    status, headers, _ = await status_of("sk-slow")
    assert status == 200
    record = (await call(locked, "GET", f"/console/api/decisions/{headers['x-request-id']}", {"cookie": session}))[2]
    assert (record["principal"], record["target"], record["attempts"][0]["outcome"]) == ("slow", "only", "ok")
    assert (await status_of("sk-slow"))[0] == 429
    keys = (await call(locked, "GET", "/console/api/keys", {"cookie": session}))[2]["keys"]
    slow = next(key for key in keys if key["name"] == "slow")
    assert (slow["requests"], slow["limits"][0]["name"], round(slow["limits"][0]["used"])) == (
        2, "requests per minute", 1,
    )  # fmt: skip


async def test_without_keys_the_host_must_be_this_machine(unlocked: Any) -> None:
    assert (await call(unlocked, "GET", "/console/api/session"))[0] == 200
    assert (await call(unlocked, "GET", "/console", {"host": "evil.example"}))[0] == 403
    assert (await call(unlocked, "GET", "/console/api/session", {"host": "evil.example"}))[0] == 403


async def test_the_page_allows_no_inline_script_and_loads_nothing_from_elsewhere(unlocked: Any) -> None:
    status, headers, text = await call(unlocked, "GET", "/console")
    policy = headers["content-security-policy"]
    assert status == 200
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert f'content="{nonce}"' in text
    assert nonce not in (await call(unlocked, "GET", "/console"))[2], "every page has its own"
    for name in ("console.js", "console.css", "icon.svg"):
        status, headers, _ = await call(unlocked, "GET", f"/console/assets/{name}")
        assert (status, headers["x-content-type-options"]) == (200, "nosniff")
    for name in ("index.html", "..%2fpages.py", "nothing.js"):
        assert (await call(unlocked, "GET", f"/console/assets/{name}"))[0] == 404


async def test_the_console_can_be_switched_off(fake: Any, serving: Any) -> None:
    async with fake() as server, serving(POLICY % server.url, console="off") as gateway:
        for path in ("/console", "/console/api/session", "/console/assets/console.js"):
            assert (await call(gateway, "GET", path))[0] == 404
        assert (await call(gateway, "POST", "/console/send/v1/chat/completions", OWN, CHAT))[0] == 404

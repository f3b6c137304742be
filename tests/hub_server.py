"""A local server that speaks the hub's API as huggingface_hub calls it, with faults: `HF_ENDPOINT` names it."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEXT_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
_MODEL = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+?)(/(revision|tree)/(?P<revision>[^/?]+)(?P<path>/[^?]*)?)?(\?.*)?")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>[^?]+)")


@dataclass
class Hub:
    """One model with its files; `.safetensors` are stored as large files, behind a redirect."""

    model: str = "owner/model"
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    revisions: tuple[str, ...] = ("main", COMMIT, NEXT_COMMIT)
    refusal: tuple[int, str] | None = None  # status and X-Error-Code of every answer
    sent: dict[str, bytes] = field(default_factory=dict, repr=False)  # other contents than the listing says
    cut_after: int | None = None  # bytes of a body, after which the connection closes
    ignores_ranges: bool = False
    trouble: list[tuple[int, dict[str, str]]] = field(default_factory=list, repr=False)  # next answers to contents
    moved: dict[str, bytes] | None = field(default=None, repr=False)  # files of `main` once it has been listed
    is_listed: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list, repr=False)  # method, path, range
    url: str = ""
    cdn: str = ""  # another server, to which large files are redirected

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let huggingface_hub of this process use this server, and an empty cache."""
        self.point(monkeypatch, self.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def at(self, revision: str | None) -> tuple[str, dict[str, bytes]]:
        """(commit, files) of a revision."""
        has_moved = self.moved is not None and (revision == NEXT_COMMIT or (revision != COMMIT and self.is_listed))
        return (NEXT_COMMIT, self.moved or {}) if has_moved else (COMMIT, self.files)

    @staticmethod
    def point(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """As HF_ENDPOINT does, which huggingface_hub reads when it is imported."""
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)

    def ranges(self) -> list[str | None]:
        """The ranges of the requests for contents."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and path.startswith("/cdn/")]


def digest_of(name: str, content: bytes) -> str:
    """As the hub names contents: SHA-256 of large files, else git's digest."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve on free ports of the loopback interface."""

    class Handler(_Handler):
        served = hub

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    commit: str
    files: dict[str, bytes]  # of the revision that is asked for
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        hub = self.served
        hub.requests.append((self.command, self.path, self.headers["Range"]))
        if hub.refusal is not None:
            return self._send(hub.refusal[0], b"", {"X-Error-Code": hub.refusal[1], "X-Error-Message": "refused"})
        if self.path.startswith("/cdn/"):
            if hub.trouble:
                status, headers = hub.trouble.pop(0)
                return self._send(status, b"", headers)
            commit, name = self.path.removeprefix("/cdn/").split("/", 1)
            self.commit, self.files = hub.at(commit)
            return self._content(name)
        found = _MODEL.fullmatch(self.path) or _FILE.fullmatch(self.path)
        if found is None or found["id"] != hub.model:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if found["revision"] is not None and found["revision"] not in hub.revisions:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        self.commit, self.files = hub.at(found["revision"])
        if found.re is _MODEL:
            hub.is_listed = True
            return self._json(self._tree() if "/tree/" in self.path else self._info())
        return self._resolve(found["name"])

    def _info(self) -> object:
        siblings = []
        for name, content in self.files.items():
            one: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": digest_of("", content)}
            if name.endswith(".safetensors"):
                one["lfs"] = {"sha256": digest_of(name, content), "size": len(content), "pointerSize": 130}
            siblings.append(one)
        return {"id": self.served.model, "modelId": self.served.model, "sha": self.commit, "siblings": siblings}

    def _tree(self) -> object:
        rows = []
        for name, content in self.files.items():
            row: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": digest_of("", content)}
            if name.endswith(".safetensors"):
                row["lfs"] = {"oid": digest_of(name, content), "size": len(content), "pointerSize": 130}
            rows.append(row)
        return rows

    def _resolve(self, name: str) -> None:
        content = self.files.get(name)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit})
        headers = {"X-Repo-Commit": self.commit}
        if name.endswith(".safetensors"):
            headers |= {"Location": f"{self.served.cdn}/cdn/{self.commit}/{name}"}
            headers |= {"X-Linked-Etag": f'"{digest_of(name, content)}"', "X-Linked-Size": str(len(content))}
            return self._send(302, b"", headers)
        headers["ETag"] = f'"{digest_of(name, content)}"'
        if self.command == "HEAD":
            return self._send(200, content, headers)
        return self._content(name, headers)

    def _content(self, name: str, headers: dict[str, str] | None = None) -> None:
        content = self.served.sent.get(name, self.files[name])
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(wanted[1]) if wanted and not self.served.ignores_ranges else 0
        if start >= len(content) and start:
            return self._send(416, b"")
        more = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        return self._send(206 if start else 200, content[start:], {**(headers or {}), **more})

    def _json(self, body: object) -> None:
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.served.cut_after
        if cut is not None and self.path.startswith("/cdn/") and len(body) > cut:
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        self.wfile.write(body)

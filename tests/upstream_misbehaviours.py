"""Every way in which servers have been seen to answer, right and wrong, as scripts for `tests.scripted_server`.

Each case has a name, which is the model to ask for, and what must come of it: whole and streamed, through a gateway,
and asked directly by OpenAI's client. A request whose last message is not `MISBEHAVE` gets a healthy answer.
"""

import gzip
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.scripted_server import HANG, RESET, Script, Step

MISBEHAVE: Final = "misbehave"
TEXT: Final = "hello world"
HEALTHY: Final = "I am well"
CALL: Final = ("add", '{"a":1}')

# What must come of a case, through a gateway.
OK: Final = "ok"  # the text or the tool call, with a finish reason
EMPTY: Final = "empty"  # an answer whose text is empty
INCOMPLETE: Final = "incomplete"  # the text, without a finish reason
CUT: Final = "cut"  # the text begins, then the stream ends with an error event


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`steps` are the script of the connection. `right`: one of the outcomes above, or the reason of the fallback.

    `direct`: OpenAI's client gets the same answer directly. `stream`: the form that the request asks for.
    """

    name: str
    stream: bool
    steps: tuple[Step, ...]
    right: str
    direct: bool = False
    calls: bool = False  # the answer is the tool call, not the text


def head(status: str = "200 OK", *lines: str, version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join((f"{version} {status}", *lines, "", "")).encode("latin-1")


def sized(body: bytes, *lines: str, status: str = "200 OK", kind: str = "application/json") -> tuple[Step, ...]:
    """A response with a length."""
    typed = (f"Content-Type: {kind}",) if kind else ()
    return (head(status, *typed, f"Content-Length: {len(body)}", *lines) + body,)


def chunked(*pieces: bytes, lines: Iterable[str] = (), kind: str = "text/event-stream", end: bool = True) -> bytes:
    """A response in chunks of HTTP; without `end` the last chunk is missing."""
    typed = (f"Content-Type: {kind}",) if kind else ()
    sent = head("200 OK", *typed, "Transfer-Encoding: chunked", *lines)
    sent += b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return sent + b"0\r\n\r\n" * end


def document(message: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    plain = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return {name: value for name, value in (plain | more).items() if value is not ...}


def whole(message: Any = ..., finish: Any = "stop", **more: Any) -> bytes:
    said = {"role": "assistant", "content": TEXT} if message is ... else message
    return json.dumps(document(said, finish, **more)).encode()


def event(delta: Any, finish: Any = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more.pop("choice", {})}
    plain = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    found = {name: value for name, value in (plain | more).items() if value is not ...}
    return b"data: " + json.dumps(found).encode() + b"\n\n"


ROLE: Final = event({"role": "assistant", "content": ""})
HELLO: Final = event({"content": "hello"})
WORLD: Final = event({"content": " world"})
STOP: Final = event({}, "stop")
DONE: Final = b"data: [DONE]\n\n"
GOOD: Final = ROLE + HELLO + WORLD + STOP + DONE
CALLED: Final = {"id": "call_1", "type": "function", "function": {"name": CALL[0], "arguments": CALL[1]}}


def data(value: str) -> bytes:
    return b"data: " + value.encode() + b"\n\n"


def _deflated(body: bytes, *, raw: bool = False) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def _gzipped_events(*events: bytes) -> list[bytes]:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return [packer.compress(each) + packer.flush(zlib.Z_SYNC_FLUSH) for each in events] + [packer.flush()]


def _gzipped(unit: bytes, *, times: int) -> bytes:
    """One gzip member (RFC 1952) of `unit * times`, of which one unit is compressed: every test process makes it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(times):
        checksum = zlib.crc32(unit, checksum)
    packed = b"\x1f\x8b\x08" + bytes(7) + block * times + b"\x03\0"  # the last block is empty
    return packed + struct.pack("<II", checksum, len(unit) * times)


def part(data: bytes) -> bytes:
    """A chunk of HTTP."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def paused(*parts: bytes, seconds: float = 0.01, lines: Iterable[str] = ()) -> tuple[Step, ...]:
    """A response whose chunks arrive one by one."""
    sent = [step for each in parts for step in (part(each), seconds)]
    return (chunked(end=False, lines=lines), *sent, b"0\r\n\r\n")


# Streams that OpenAI's client reads to a good end.
LENIENT_STREAMS: Final[dict[str, tuple[Step, ...] | bytes]] = {
    "plain": GOOD,
    "crlf": GOOD.replace(b"\n", b"\r\n"),
    "cr": GOOD.replace(b"\n", b"\r"),
    "mixed-line-ends": ROLE + HELLO.replace(b"\n", b"\r\n") + WORLD.replace(b"\n", b"\r") + STOP + DONE,
    "byte-order-mark": b"\xef\xbb\xbf" + GOOD,
    "leading-blank-lines": b"\n\n" + GOOD,
    "comments": b": ok\n\n" + ROLE + b": ping\n\n" + HELLO + b": ping - 2026\n" + WORLD + STOP + b":\n\n" + DONE,
    "no-blank-after-colon": GOOD.replace(b"data: ", b"data:"),
    "data-in-two-lines": ROLE + HELLO.replace(b', "object"', b',\ndata: "object"') + WORLD + STOP + DONE,
    "named-events": GOOD.replace(b"data: ", b"event: message\ndata: "),
    "unknown-event-names": GOOD.replace(b"data: {", b"event: completion.chunk\ndata: {"),
    "name-behind-data": ROLE + HELLO.replace(b"\n\n", b"\nevent: x\n\n") + WORLD + STOP + DONE,
    "id-and-retry": GOOD.replace(b"data: ", b"id: 7\nretry: 3000\ndata: "),
    "unknown-fields-of-events": GOOD.replace(b"data: ", b"foo: bar\nnonsense\ndata: "),
    "ping-object": ROLE + data('{"type": "ping"}') + HELLO + data('{"type": "ping"}') + WORLD + STOP + DONE,
    "empty-object": ROLE + HELLO + data("{}") + WORLD + STOP + DONE,
    "null-event": ROLE + HELLO + data("null") + WORLD + STOP + DONE,
    "choices-null": ROLE + HELLO + data('{"id": "c", "choices": null}') + WORLD + STOP + DONE,
    "choices-missing": ROLE + HELLO + data('{"id": "c", "object": "x"}') + WORLD + STOP + DONE,
    "choices-empty": data('{"choices": [], "prompt_filter_results": [{}]}') + GOOD,
    "usage-alone": ROLE + HELLO + WORLD + STOP + data('{"usage": {"prompt_tokens": 3}}') + DONE,
    "usage-with-null-choices": ROLE + HELLO + WORLD + STOP + data('{"choices": null, "usage": {}}') + DONE,
    "usage-before-text": data('{"choices": [], "usage": {"prompt_tokens": 3}}') + GOOD,
    "usage-null": ROLE + HELLO + event({"content": " world"}, usage=None) + STOP + DONE,
    "usage-odd": ROLE + HELLO + WORLD + event({}, "stop", usage={"prompt_tokens": 3.0, "cost": "?", "x": []}) + DONE,
    "usage-is-a-list": ROLE + HELLO + WORLD + event({}, "stop", usage=[1]) + DONE,
    "ping-event": b"event: ping\ndata: {}\n\n" + GOOD,
    "done-with-blank": GOOD.replace(b"[DONE]", b"[DONE] "),
    "done-and-more": GOOD.replace(b"[DONE]", b"[DONE] bye"),
    "done-without-blank": GOOD.replace(b"data: [DONE]", b"data:[DONE]"),
    "done-with-one-newline": GOOD[:-1],
    "done-without-newline": GOOD[:-2],
    "done-named": GOOD.replace(b"data: [DONE]", b"event: done\ndata: [DONE]"),
    "done-half": GOOD.removesuffix(DONE) + b"data: [DO",
    "half-an-event-behind-finish": GOOD.removesuffix(DONE) + HELLO[:30],
    "done-missing": GOOD.removesuffix(DONE),
    "done-twice": GOOD + DONE,
    "more-behind-done": GOOD + b"data: {broken\n\n",
    "null-fields": ROLE
    + event({"content": "hello", "role": None, "tool_calls": None, "function_call": None, "refusal": None})
    + WORLD
    + event({"content": None}, "stop")
    + DONE,
    "role-missing": HELLO + WORLD + STOP + DONE,
    "role-twice": ROLE + ROLE + event({"role": "assistant", "content": "hello"}) + ROLE + WORLD + STOP + DONE,
    "role-unknown": event({"role": "bot", "content": "hello"}) + WORLD + STOP + DONE,
    "index-missing": GOOD.replace(b'"index": 0, ', b""),
    "index-null": GOOD.replace(b'"index": 0', b'"index": null'),
    "index-float": GOOD.replace(b'"index": 0', b'"index": 0.0'),
    "created-float": GOOD.replace(b'"created": 1', b'"created": 1.5'),
    "created-text": GOOD.replace(b'"created": 1', b'"created": "now"'),
    "head-fields-missing": GOOD.replace(HELLO[6 : HELLO.index(b'"choices"')], b"{"),
    "head-fields-null": GOOD.replace(b'"c"', b"null").replace(b'"m"', b"null"),
    "unknown-fields": GOOD.replace(b'"id"', b'"x": {"y": [1, {"z": null}]}, "id"'),
    "empty-finish-reasons": ROLE + event({"content": "hello"}, "") + event({"content": " world"}, "") + STOP + DONE,
    "unknown-finish-reason": ROLE + HELLO + WORLD + event({}, "eos") + DONE,
    "finish-with-text": ROLE + HELLO + event({"content": " world"}, "stop") + DONE,
    "finish-twice": ROLE + HELLO + WORLD + STOP + STOP + DONE,
    "error-null": GOOD.replace(b'"id"', b'"error": null, "id"'),
    "error-empty": GOOD.replace(b'"id"', b'"error": {}, "id"'),
    "logprobs-infinite": GOOD.replace(b'"index": 0', b'"index": 0, "logprobs": {"content": [{"logprob": -Infinity}]}'),
    "lone-surrogate": ROLE + HELLO + WORLD + event({}, "stop", note="\ud800") + DONE,
    "large-integer": GOOD.replace(b'"created": 1', b'"created": 123456789012345678901234567890'),
    "reasoning": ROLE + event({"reasoning_content": "hm"}) + HELLO + WORLD + STOP + DONE,
    "text-in-parts": ROLE
    + event({"content": [{"type": "text", "text": "hello"}]})
    + event({"content": [{"type": "text", "text": " "}, {"type": "text", "text": "world"}]})
    + STOP
    + DONE,
    "long-event": ROLE + event({"content": "hello"}, pad="x" * 300_000) + WORLD + STOP + DONE,
    "byte-by-byte": tuple([chunked(lines=["Connection: close"], end=False)]
                          + [b"1\r\n%c\r\n" % byte for byte in GOOD] + [b"0\r\n\r\n"]),
    "until-close": (head("200 OK", "Content-Type: text/event-stream", "Connection: close") + GOOD,),
    "until-close-without-done": (head("200 OK", "Connection: close") + GOOD.removesuffix(DONE),),
    "with-a-length": sized(GOOD, kind="text/event-stream"),
    "http-1.0": (head("200 OK", "Content-Type: text/event-stream", version="HTTP/1.0") + GOOD,),
    "no-content-type": (chunked(GOOD, kind=""),),
    "content-type-text": (chunked(GOOD, kind="text/plain; charset=utf-8"),),
    "content-type-json": (chunked(GOOD, kind="application/json"),),
    "content-type-upper-case": (chunked(GOOD, kind="TEXT/EVENT-STREAM; CHARSET=UTF-8"),),
    "charset-latin-1": (chunked(GOOD, kind="text/event-stream; charset=iso-8859-1"),),
    "gzip": (chunked(*_gzipped_events(ROLE, HELLO, WORLD, STOP, DONE), lines=["Content-Encoding: gzip"]),),
    "deflate": (chunked(_deflated(GOOD), lines=["Content-Encoding: deflate"]),),
    "raw-deflate": (chunked(_deflated(GOOD, raw=True), lines=["CONTENT-ENCODING: Deflate"]),),
    "unknown-encoding": (chunked(GOOD, lines=["Content-Encoding: utf-8"]),),
    "identity": (chunked(GOOD, lines=["Content-Encoding: identity"]),),
    "reset-behind-done": (chunked(GOOD, end=False), 0.02, RESET),
    "headers-lower-case": (b"HTTP/1.1 200 OK\r\ncontent-type:text/event-stream\r\ntransfer-encoding:chunked\r\n\r\n"
                           + chunked(GOOD).partition(b"\r\n\r\n")[2],),
    "status-201": (chunked(GOOD).replace(b"200 OK", b"201 Created"),),
    "early-hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + chunked(GOOD),),
    "status-206": (chunked(GOOD).replace(b"200 OK", b"206 Partial Content"),),
    "message-so-far-beside-delta": event({"content": "hello"}, choice={"message": {"content": "hello"}})
    + event({"content": " world"}, choice={"message": {"content": TEXT}})
    + event({}, "stop", choice={"message": {"content": TEXT}}) + DONE,
    "trailers": (chunked(GOOD, end=False) + b"0\r\nX-Checksum: 1\r\n\r\n",),
    "folded-header": (chunked(GOOD, lines=["X-A: b\r\n  folded"]),),
    "headers-latin-1": (chunked(GOOD, lines=["X-Name: caf\xe9"]),),
    "head-in-bare-newlines": (b"HTTP/1.1 200 OK\nConnection: close\nContent-Length: %d\n\n" % len(GOOD) + GOOD,),
    "encoding-in-two-lines": (
        chunked(gzip.compress(GOOD), lines=["Content-Encoding: identity", "Content-Encoding: gzip"]),),
    "gzip-without-trailer": (chunked(gzip.compress(GOOD)[:-8], lines=["Content-Encoding: gzip"]),),
    "choices-an-object": ROLE + data('{"choices": {"0": {"delta": {"content": "x"}}}}') + HELLO + WORLD + STOP + DONE,
    "choices-twice": ROLE + HELLO.replace(b'"choices"', b'"choices": [], "choices"') + WORLD + STOP + DONE,
    "finish-reason-a-number": ROLE + HELLO + WORLD + event({}, 1) + DONE,
    "finish-reason-a-list": ROLE + HELLO + WORLD + event({}, ["stop"]) + DONE,
    "finish-reason-an-object": ROLE + HELLO + WORLD + event({}, {"type": "stop"}) + DONE,
    "audio": ROLE + event({"audio": {"data": "AAAA"}}) + HELLO + WORLD + STOP + DONE,
    "finish-before-text": ROLE + STOP + HELLO + WORLD + DONE,
    "separators-of-unicode": ROLE + HELLO + WORLD + event({}, "stop", note="\u2028\x85").replace(
        b"\\u2028", "\u2028".encode()) + DONE,
    "empty-texts-while-it-thinks": ROLE + event({"content": ""}) * 200 + HELLO + WORLD + STOP + DONE,
    "usage-in-every-event": GOOD.replace(b'"id"', b'"usage": {"prompt_tokens": 3, "completion_tokens": 1}, "id"'),
    "heartbeats-longer-than-idle": paused(ROLE + HELLO, *[b": ping\n\n"] * 4, WORLD + STOP + DONE, seconds=0.3),
}  # fmt: skip

_TOOL_START: Final = event({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "add", "arguments": '{"a"'}}]})
LENIENT_CALLS: Final[dict[str, bytes]] = {
    "call": ROLE + _TOOL_START + event({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
    "call-at-once": event({"role": "assistant", "tool_calls": [{"index": 0, **CALLED}]}),
    "call-without-index": event({"role": "assistant", "tool_calls": [CALLED]}),
    "call-without-id": event({"tool_calls": [{"index": 0, "function": {"name": "add", "arguments": '{"a":1}'}}]}),
    "call-with-nulls": _TOOL_START
    + event({"content": None, "tool_calls": [
        {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": ":1}"}}]}),
    "call-index-float": event({"tool_calls": [{**CALLED, "index": 0.0}]}),
    "call-arguments-object": event({"tool_calls": [{"index": 0, "function": {"name": "add", "arguments": {"a": 1}}}]}),
    "call-behind-empty-list": event({"tool_calls": []}) + event({"tool_calls": [{"index": 0, **CALLED}]}),
    "legacy-function-call": event({"function_call": {"name": "add", "arguments": '{"a"'}})
    + event({"function_call": {"arguments": ":1}"}}),
}  # fmt: skip

_JSON: Final = whole()
LENIENT_WHOLE: Final[dict[str, tuple[Step, ...] | bytes]] = {
    "plain": _JSON,
    "content-type-text": sized(_JSON, kind="text/plain; charset=utf-8"),
    "content-type-html": sized(_JSON, kind="text/html"),
    "content-type-events": sized(_JSON, kind="text/event-stream"),
    "content-type-vendor": sized(_JSON, kind="application/vnd.api+json"),
    "no-content-type": sized(_JSON, kind=""),
    "charset-latin-1": sized(_JSON, kind="application/json; charset=iso-8859-1"),
    "byte-order-mark": b"\xef\xbb\xbf" + _JSON,
    "utf-16": _JSON.decode().encode("utf-16"),
    "blanks-around": b" \r\n\t" + _JSON + b"\n\n ",
    "pretty": json.dumps(json.loads(_JSON), indent=4).encode(),
    "chunked": (chunked(_JSON[:9], _JSON[9:], kind="application/json"),),
    "chunk-extensions": (chunked(_JSON, kind="application/json").replace(b"\r\n{", b";x=y\r\n{"),),
    "until-close": (head("200 OK", "Content-Type: application/json", "Connection: close") + _JSON,),
    "http-1.0": (head("200 OK", "Content-Type: application/json", version="HTTP/1.0") + _JSON,),
    "headers-odd-case": (b"HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh:%d\r\n\r\n" % len(_JSON) + _JSON,),
    "no-reason-phrase": (b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n" % len(_JSON) + _JSON,),
    "status-201": sized(_JSON, status="201 Created"),
    "status-202": sized(_JSON, status="202 Accepted"),
    "large-headers": sized(_JSON, "Content-Security-Policy: " + "x" * 30_000),
    "many-headers": sized(_JSON, *(f"X-{number}: {number}" for number in range(90))),
    "slow-head": (b"HTTP/1.1 200 OK\r\nCont", 0.01, b"ent-Length: %d\r\n" % len(_JSON), 0.01, b"\r\n", 0.01, _JSON),
    "continue-first": (b"HTTP/1.1 100 Continue\r\n\r\n", *sized(_JSON)),
    "early-hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", *sized(_JSON)),
    "encoding-none": sized(_JSON, "Content-Encoding: none"),
    "gzip": sized(gzip.compress(_JSON), "Content-Encoding: gzip"),
    "gzip-named-twice": sized(gzip.compress(gzip.compress(_JSON)), "Content-Encoding: gzip, GZIP"),
    "deflate": sized(_deflated(_JSON), "Content-Encoding: deflate"),
    "raw-deflate": sized(_deflated(_JSON, raw=True), "Content-Encoding: deflate"),
    "offers-an-upgrade": sized(_JSON, "Connection: Upgrade", "Upgrade: h2c"),
    "closes-behind": (*sized(_JSON, "Connection: close"),),
    "error-null": whole(error=None),
    "error-empty": whole(error={}),
    "error-beside": whole(error={"message": "a warning"}),
    "unknown-fields": whole(x={"y": [1]}, citations=[]),
    "head-fields-missing": whole(id=..., object=..., created=..., model=..., usage=...),
    "usage-null": whole(usage=None),
    "usage-floats": whole(usage={"prompt_tokens": 3.0, "completion_tokens": "2", "details": [1]}),
    "index-missing": whole(choices=[{"message": {"content": TEXT}, "finish_reason": "stop"}]),
    "index-text": whole(choices=[{"index": "0", "message": {"content": TEXT}, "finish_reason": "stop"}]),
    "logprobs-infinite": _JSON.replace(b'"index": 0', b'"index": 0, "logprobs": {"content": [{"logprob": -Infinity}]}'),
    "role-missing": whole({"content": TEXT}),
    "text-in-parts": whole({"content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "world"}]}),
    "reasoning": whole({"role": "assistant", "content": TEXT, "reasoning_content": "hm"}),
    "two-choices": whole(choices=[
        {"message": {"content": TEXT}, "finish_reason": "stop"}, {"message": {"content": "b"}}]),
    "empty-delta-beside-message": whole(
        choices=[{"delta": {}, "message": {"content": TEXT}, "finish_reason": "stop"}]),
    "encoding-in-two-lines": sized(gzip.compress(_JSON), "Content-Encoding: identity", "Content-Encoding: gzip"),
    "utf-16-without-mark": _JSON.decode().encode("utf-16-le"),
    "utf-32": _JSON.decode().encode("utf-32"),
    "line-end-behind": (*sized(_JSON), b"\r\n"),
    "content-type-multipart": sized(_JSON, kind="multipart/mixed; boundary=x"),
    "location-with-status-200": sized(_JSON, "Location: /elsewhere"),
    "status-203": sized(_JSON, status="203 Non-Authoritative"),
    "not-a-number": whole(x=float("nan")),
    "finish-reason-an-object": whole(finish={"type": "stop"}),
    "redirect-307": sized(b"", "Location: /elsewhere", status="307 Temporary Redirect"),
    "redirect-308": sized(b"", "Location: /elsewhere?x=1", status="308 Permanent Redirect"),
}  # fmt: skip
LENIENT_WHOLE_CALLS: Final[dict[str, bytes]] = {
    "call": whole({"role": "assistant", "content": None, "tool_calls": [CALLED]}, "tool_calls"),
    "call-without-id": whole({"tool_calls": [{"function": CALLED["function"]}]}, "tool_calls"),
    "call-with-index": whole({"content": "", "tool_calls": [{"index": 0.0, **CALLED}]}, "tool_calls"),
    "call-arguments-object": whole(
        {"tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}, "tool_calls"
    ),
    "legacy-function-call": whole({"content": None, "function_call": CALLED["function"]}, "function_call"),
}

# Answers that OpenAI's client does not understand, or understands less of, and the gateway does.
MORE_LENIENT: Final[dict[tuple[str, bool], tuple[tuple[Step, ...] | bytes, str]]] = {
    ("stream-answered-whole", True): (sized(_JSON), OK),
    ("whole-answered-by-a-stream", False): ((chunked(GOOD),), OK),
    ("whole-answered-by-a-stream-of-json-type", False): ((chunked(GOOD, kind="application/json"),), OK),
    ("ping-with-text", True): (b"event: ping\ndata: 2026-11-29\n\n" + GOOD, OK),
    ("event-without-data", True): (b"event: ping\n\nretry: 7\n\n" + GOOD, OK),
    ("done-in-lower-case", True): (GOOD.replace(b"[DONE]", b"[done]"), OK),
    ("done-bare", True): (GOOD.replace(b"[DONE]", b"DONE"), OK),
    ("done-in-other-words", True): (GOOD.removesuffix(DONE) + b"event: message\ndata: bye\n\n", OK),
    ("whole-completion-in-one-event", True): (data(_JSON.decode()) + DONE, OK),
    ("whole-completion-in-one-event-alone", True): (data(_JSON.decode()), OK),
    ("text-in-parts-nested", True): (
        ROLE + event({"content": [{"type": "text", "text": {"value": TEXT}}]}) + STOP + DONE, OK),
    ("text-in-parts-named-content", False): (whole({"content": [{"type": "text", "content": TEXT}]}), OK),
    ("delta-null", True): (ROLE + event(None) + HELLO + WORLD + STOP + DONE, OK),
    ("last-event-unended", True): (ROLE + HELLO + WORLD + STOP[:-2], OK),
    ("broken-off-behind-finish", True): ((chunked(ROLE, HELLO, WORLD, STOP, end=False),), OK),
    ("reset-behind-finish", True): ((chunked(ROLE, HELLO, WORLD, STOP, end=False), 0.02, RESET), OK),
    ("silent-behind-finish", True): ((chunked(ROLE, HELLO, WORLD, STOP, end=False), HANG), OK),
    ("gzip-members", False): (
        sized(gzip.compress(_JSON[:9]) + gzip.compress(_JSON[9:]), "Content-Encoding: x-gzip"), OK),
    ("done-without-finish", True): (ROLE + HELLO + WORLD + DONE, INCOMPLETE),
    ("finish-reason-null", False): (whole(finish=None), INCOMPLETE),
    ("gzip-member-of-each-event", True): (
        paused(*map(gzip.compress, (ROLE, HELLO, WORLD, STOP, DONE)), lines=["Content-Encoding: gzip"]), OK),
    ("index-negative", True): (GOOD.replace(b'"index": 0', b'"index": -1'), OK),
    ("heartbeats-behind-finish", True): (paused(GOOD.removesuffix(DONE), *[b": ping\n\n"] * 9, seconds=0.05), OK),
    ("two-responses-at-once", True): ((chunked(GOOD) + chunked(GOOD.replace(b"hello", b"stale")),), OK),
    ("two-responses-at-once", False): ((*sized(_JSON), *sized(_JSON.replace(b"hello", b"stale"))), OK),
    ("data-without-value", True): (ROLE + b"data\n\ndata:\n\n" + HELLO + WORLD + STOP + DONE, OK),
    ("events-without-objects", True): (
        ROLE + data("[1]") + HELLO + data('"x"') + data("7") + data("true") + WORLD + STOP + DONE, OK),
    ("many-lines-of-data", True): (ROLE + b"data:\n" * 20_000 + HELLO + WORLD + STOP + DONE, OK),
    ("text-in-nested-parts", False): (whole({"content": [["hello "], [[{"type": "text", "text": "world"}]]]}), OK),
    ("text-in-an-object", False): (whole({"content": {"text": TEXT}}), OK),
    ("empty-text", False): (whole({"role": "assistant", "content": ""}), EMPTY),
    ("empty-text", True): (ROLE + STOP + DONE, EMPTY),
}  # fmt: skip

_ERROR: Final = json.dumps({"error": {"message": "no", "type": "x", "code": "y"}}).encode()
_DIGITS: Final = b"1" * 5000  # more than Python converts to an integer
_MANY_DIGITS: Final = whole(usage={"prompt_tokens": "?"}).replace(b'"?"', b'"?", "y": ' + _DIGITS)
_LOOP: Final = sized(b"", "Location: /v1/chat/completions", status="307 Temporary Redirect")

# Answers without use: by name, what the upstream does and the reason of the fallback, whatever form was asked for.
USELESS: Final[dict[str, tuple[tuple[Step, ...] | bytes, str]]] = {
    "choices-empty": (b'{"choices": []}', "upstream_error"),
    "choices-null": (b'{"choices": null}', "upstream_error"),
    "choices-missing": (b'{"id": "c"}', "upstream_error"),
    "choices-of-nothing": (b'{"choices": [null, 7]}', "upstream_error"),
    "message-null": (whole(None), "upstream_error"),
    "message-missing": (b'{"choices": [{"index": 0, "finish_reason": "stop"}]}', "upstream_error"),
    "message-empty": (whole({}), "upstream_error"),
    "content-of-unknown-parts": (whole({"content": [{"type": "x", "x": 1}]}), "upstream_error"),
    "key-rejected-with-status-400": (
        sized(b'{"error": {"code": "invalid_api_key"}}', status="400 Bad Request"), "upstream_auth"),
    "key-rejected-with-status-200": (b'{"error": {"code": "invalid_api_key"}}', "upstream_auth"),
    "overload-with-status-200": (b'{"error": {"type": "overloaded_error", "message": "x"}}', "overloaded"),
    "content-null": (whole({"role": "assistant", "content": None}), "upstream_error"),
    "error-with-status-200": (_ERROR, "upstream_error"),
    "rate-limit-with-status-200": (b'{"error": {"message": "slow down", "code": 429}}', "overloaded"),
    "html": (sized(b"<html>Sign in</html>", kind="text/html"), "upstream_error"),
    "empty-body": (b"", "upstream_error"),
    "status-204": ((head("204 No Content"),), "upstream_error"),
    "array": (b"[]", "upstream_error"),
    "not-json": (b"OK", "upstream_error"),
    "two-documents": (_JSON + _JSON, "upstream_error"),
    "half-a-document": (_JSON[:-9], "upstream_error"),
    "error-of-many-digits": (b'{"error": {"code": ' + _DIGITS + b"}}", "upstream_error"),
    "usage-of-many-digits": (_MANY_DIGITS, "upstream_error"),
    "three-encodings": (sized(_JSON, "Content-Encoding: gzip, gzip, gzip"), "upstream_error"),
    "deep-document": (b'{"choices":' + b"[" * 200_000, "upstream_error"),
    "invalid-utf-8": (whole().replace(b"hello", b"\xff\xfe"), "upstream_error"),
    "body-too-short": ((head("200 OK", "Content-Length: 9999") + _JSON[:50],), "upstream_error"),
    "chunk-broken-off": ((chunked(_JSON[:50], kind="application/json", end=False),), "upstream_error"),
    "chunk-size-broken": ((head("200 OK", "Transfer-Encoding: chunked") + b"zz\r\n" + _JSON,), "upstream_error"),
    "gzip-in-name-only": (sized(_JSON, "Content-Encoding: gzip"), "upstream_error"),
    "gzip-broken": (sized(gzip.compress(_JSON)[:30] + b"x" * 30, "Content-Encoding: gzip"), "upstream_error"),
    "brotli": (sized(b"\x0b\x02\x80{}\x03", "Content-Encoding: br"), "upstream_error"),
    "six-encodings": (sized(_JSON, "Content-Encoding: gzip, gzip, gzip, gzip, gzip, gzip"), "upstream_error"),
    "not-http": ((b"SSH-2.0-OpenSSH_9.2\r\n",), "upstream_error"),
    "header-broken": ((b"HTTP/1.1 200 OK\r\n\x00bad\x01: x\r\n\r\n" + _JSON,), "upstream_error"),
    "header-too-large": (sized(_JSON, "X-Large: " + "x" * 200_000), "upstream_error"),
    "closes-at-once": ((), "upstream_error"),
    "resets-at-once": ((RESET,), "upstream_error"),
    "closes-in-the-head": ((b"HTTP/1.1 200 OK\r\nContent-",), "upstream_error"),
    "gzip-bomb": (sized(_gzipped(b" " * 1_000_000, times=50), "Content-Encoding: gzip"), "upstream_error"),
    "gzip-of-empty-members": (
        sized(gzip.compress(b"") * 5000 + gzip.compress(_JSON), "Content-Encoding: gzip"), "upstream_error"),
    "gzip-of-wrong-sum": (
        sized(gzip.compress(_JSON)[:-8] + bytes(8), "Content-Encoding: gzip"), "upstream_error"),
    "transfer-encoding-gzip": (
        (chunked(gzip.compress(_JSON)).replace(b"Encoding: ", b"Encoding: gzip, "),), "upstream_error"),
    "two-lengths": (sized(_JSON, "Content-Length: 7"), "upstream_error"),
    "negative-length": ((head("200 OK", "Content-Length: -5") + _JSON,), "upstream_error"),
    "length-in-words": ((head("200 OK", "Content-Length: many") + _JSON,), "upstream_error"),
    "length-zero": ((head("200 OK", "Content-Length: 0", "Connection: close") + _JSON,), "upstream_error"),
    "chunk-size-huge": ((head("200 OK", "Transfer-Encoding: chunked") + b"F" * 18 + b"\r\n",), "upstream_error"),
    "switches-protocols": ((head("101 Switching Protocols", "Upgrade: x", "Connection: upgrade"),), "upstream_error"),
    "tls": ((b"\x15\x03\x01\x00\x02\x02\x46",), "upstream_error"),
    "http-2": ((b"\x00\x00\x12\x04" + bytes(23),), "upstream_error"),
    "too-many-headers": (sized(_JSON, *(f"X-{number}: {number}" for number in range(10_000))), "upstream_error"),
    "status-999": (sized(_JSON, status="999 Odd"), "upstream_error"),
    "objects-without-end": (b'{"choices":[' + b"{}," * (1 << 20) + b"{}]}", "upstream_error"),
    "choices-without-end": (
        whole(choices=[{"message": {"content": "x"}, "finish_reason": "stop"}] * 1000), "upstream_error"),
    "calls-without-end": (whole({"tool_calls": [CALLED] * 3000}, "tool_calls"), "upstream_error"),
    "choices-an-object": (b'{"choices": {"0": {"message": {"content": "x"}}}}', "upstream_error"),
    "message-a-text": (whole(TEXT), "upstream_error"),
    "text-of-completions": (b'{"choices": [{"text": "hello world", "finish_reason": "stop"}]}', "upstream_error"),
    "guarded-json": (b")]}'\n" + _JSON, "upstream_error"),
    "status-300": (sized(_JSON, status="300 Multiple Choices"), "upstream_error"),
    "status-407": (sized(b"", "Proxy-Authenticate: Basic", status="407 Authenticate"), "upstream_error"),
    "status-418": (sized(b"I am a teapot", status="418 Teapot", kind="text/plain"), "refused"),
    "status-100-alone": ((b"HTTP/1.1 100 Continue\r\n\r\n",), "upstream_error"),
    "text-of-json": (json.dumps(_JSON.decode()).encode(), "upstream_error"),
    "array-of-one": (b"[" + _JSON + b"]", "upstream_error"),
    "nul-behind": (_JSON + b"\0", "upstream_error"),
    "one-object-per-line": (_JSON + b"\n" + _JSON, "upstream_error"),
    "error-body-hangs": ((head("500 No", "Content-Length: 50") + b"{", HANG), "upstream_error"),
    "error-body-without-end": (
        (head("500 No", "Transfer-Encoding: chunked"), *[part(b"x" * 60_000)] * 9, HANG), "upstream_error"),
    "retry-after-odd": (sized(b"{}", "Retry-After: nan", "Retry-After: -5", status="429 Slow"), "overloaded"),
    "redirect-to-no-port": (sized(b"", "Location: http://127.0.0.1:99999/x", status="307 T"), "upstream_error"),
    "redirect-with-controls": (sized(b"", "Location: /x\x0b", status="307 T"), "upstream_error"),
    "hangs": ((HANG,), "deadline"),
    "hangs-in-the-head": ((b"HTTP/1.1 200 OK\r\nContent-", HANG), "deadline"),
    "hangs-behind-the-head": ((head("200 OK", "Content-Length: 99"), HANG), "deadline"),
    "hangs-in-the-body": ((head("200 OK", "Content-Length: 9999") + _JSON, HANG), "deadline"),
    "status-400": (sized(_ERROR, status="400 Bad Request"), "refused"),
    "status-401": (sized(_ERROR, status="401 Unauthorized"), "upstream_auth"),
    "status-402": (sized(_ERROR, status="402 Payment Required"), "overloaded"),
    "status-403": (sized(b"<html>", status="403 Forbidden"), "upstream_auth"),
    "status-404": (sized(b"404 page not found", status="404 Not Found", kind="text/plain"), "upstream_error"),
    "status-405": (sized(b"", status="405 Method Not Allowed"), "upstream_error"),
    "status-408": (sized(b"", status="408 Request Timeout"), "upstream_error"),
    "status-422": (sized(b'{"detail": [{"loc": ["body"]}]}', status="422 Unprocessable"), "refused"),
    "status-429": (sized(_ERROR, status="429 Too Many Requests"), "overloaded"),
    "status-429-gzip": (sized(gzip.compress(_ERROR), "Content-Encoding: gzip", status="429 Slow"), "overloaded"),
    "status-500": (sized(_ERROR, status="500 Internal Server Error"), "upstream_error"),
    "status-500-broken-off": ((head("500 No", "Content-Length: 999") + b"{",), "upstream_error"),
    "status-502-html": (sized(b"<html>", status="502 Bad Gateway", kind="text/html"), "upstream_error"),
    "status-503": (sized(b"", status="503 Service Unavailable"), "overloaded"),
    "status-504": (sized(b"<html>", status="504 Gateway Time-out", kind="text/html"), "upstream_error"),
    "status-529": (sized(_ERROR, status="529 Overloaded"), "overloaded"),
    "redirect-302": (sized(b"", "Location: /elsewhere", status="302 Found"), "upstream_error"),
    "redirect-304": ((head("304 Not Modified"),), "upstream_error"),
    "redirect-in-circles": (_LOOP, "upstream_error"),
    "redirect-to-nowhere": (sized(b"", status="307 Temporary Redirect"), "upstream_error"),
    "redirect-to-another-host": (sized(b"", "Location: http://localhost:9/x", status="307 T"), "upstream_error"),
    "redirect-to-another-scheme": (sized(b"", "Location: file:///etc/passwd", status="307 T"), "upstream_error"),
}  # fmt: skip


def _behind_text(events: bytes) -> tuple[Step, ...]:
    """Sent once the first text has been read: what comes together with an error is not passed on."""
    return chunked(ROLE, HELLO, end=False), 0.1, b"%x\r\n%s\r\n0\r\n\r\n" % (len(events), events)


# Streams that fail: before their first text the next target answers, afterwards an error event ends the stream.
BROKEN_STREAMS: Final[dict[str, tuple[tuple[Step, ...] | bytes, str]]] = {
    "done-alone": (DONE, "upstream_error"),
    "nothing": ((chunked(),), "upstream_error"),
    "pings-alone": (data('{"type": "ping"}') * 3 + DONE, "upstream_error"),
    "comments-alone": (b": ping\n\n" * 9, "upstream_error"),
    "roles-alone": (event({"role": "assistant"}) + STOP + DONE, "upstream_error"),
    "usage-alone": (data('{"choices": [], "usage": {"prompt_tokens": 3}}') + DONE, "upstream_error"),
    "no-choice": (data('{"choices": []}') * 3 + DONE, "upstream_error"),
    "error-first": (data('{"error": {"message": "no"}}'), "upstream_error"),
    "error-as-text": (data('{"error": "no"}'), "upstream_error"),
    "error-event": (b'event: error\ndata: {"message": "no"}\n\n', "upstream_error"),
    "error-event-not-json": (b"event: error\ndata: no\n\n", "upstream_error"),
    "rate-limit-first": (data('{"error": {"message": "slow", "code": 429}}'), "overloaded"),
    "malformed-first": (data("{broken") + GOOD, "upstream_error"),
    "text-instead-of-json": (data("hello"), "upstream_error"),
    "ends-behind-the-role": (ROLE, "upstream_error"),
    "event-without-end": ((chunked(b"data: " + b"x" * (4 << 20), b"x" * (1 << 20)),), "upstream_error"),
    "error-behind-text": (_behind_text(data('{"error": {"message": "no", "code": "y"}}')), CUT),
    "error-event-behind-text": (_behind_text(b'event: error\ndata: {"detail": "no"}\n\n'), CUT),
    "malformed-behind-text": (_behind_text(data("{broken") + WORLD + STOP + DONE), CUT),
    "ends-behind-text": (ROLE + HELLO, CUT),
    "broken-off-behind-text": ((chunked(ROLE, HELLO, end=False),), CUT),
    "half-an-event-behind-text": (ROLE + HELLO + WORLD[:30], CUT),
    "reset-behind-text": ((chunked(ROLE, HELLO, end=False), 0.02, RESET), CUT),
    "silent-behind-text": ((chunked(ROLE, HELLO, end=False), HANG), CUT),
    "compressed-heartbeats": (
        # 8 MB of long ones: as many short ones take half a second
        (chunked(_gzipped((b": " + b"ping" * 15 + b"\n\n") * 2500, times=50), lines=["Content-Encoding: gzip"]),),
        "upstream_error"),
    "event-of-too-many-lines": (b"data:\n" * 200_000 + HELLO + WORLD + STOP + DONE, "upstream_error"),
    "error-event-with-a-status": (b'event: error\ndata: {"message": "slow", "code": 429}\n\n', "overloaded"),
    "invalid-utf-8-in-an-unknown-field": (
        ROLE + HELLO.replace(b'"id"', b'"x": "\xff", "id"') + WORLD + STOP, "upstream_error"),
    "invalid-utf-8": (ROLE + HELLO.replace(b"hello", b"\xff") + WORLD + STOP + DONE, "upstream_error"),
    "control-characters": (ROLE + HELLO.replace(b"hello", b"hel\x01lo") + WORLD + STOP + DONE, "upstream_error"),
    "events-of-another-api": (
        b'event: content_block_delta\ndata: {"type": "x", "delta": {"text": "hi"}}\n\n', "upstream_error"),
    "trailing-comma": (ROLE + HELLO.replace(b"}\n", b",}\n") + WORLD + STOP + DONE, "upstream_error"),
    "line-ends-behind-text": (_behind_text(b"\n" * (5 << 20)), CUT),
    "comment-without-end-behind-text": (_behind_text(b": " + b"x" * (5 << 20)), CUT),
    "choices-without-end-behind-text": (
        _behind_text(b"".join(event({"content": "x"}, choice={"index": number}) for number in range(500))), CUT),
    "second-choice-unfinished": (ROLE + HELLO + event({"content": "b"}, choice={"index": 1}) + WORLD + STOP, CUT),
}  # fmt: skip


def cases() -> list[Case]:
    """All cases."""
    found = [Case(name=name, stream=True, steps=_steps(does, stream=True), right=OK, direct=True)
             for name, does in LENIENT_STREAMS.items()]  # fmt: skip
    found += [Case(name=name, stream=False, steps=_steps(does, stream=False), right=OK, direct=True)
              for name, does in LENIENT_WHOLE.items()]  # fmt: skip
    for name, events in LENIENT_CALLS.items():
        finish = "function_call" if "legacy" in name else "tool_calls"
        steps = _steps(events + event({}, finish) + DONE, stream=True)
        found.append(Case(name=name, stream=True, steps=steps, right=OK, direct=True, calls=True))
    for name, body in LENIENT_WHOLE_CALLS.items():
        steps = _steps(body, stream=False)
        found.append(Case(name=name, stream=False, steps=steps, right=OK, direct=True, calls=True))
    for (name, stream), (does, right) in MORE_LENIENT.items():
        found.append(Case(name=name, stream=stream, steps=_steps(does, stream=stream), right=right))
    for name, (does, right) in USELESS.items():
        for stream in (False, True):
            found.append(Case(name=f"bad-{name}", stream=stream, steps=_steps(does, stream=False), right=right))
    for name, (does, right) in BROKEN_STREAMS.items():
        found.append(Case(name=f"broken-{name}", stream=True, steps=_steps(does, stream=True), right=right))
    return found


def _steps(does: tuple[Step, ...] | bytes, *, stream: bool) -> tuple[Step, ...]:
    """A body alone is sent in the usual framing of its form."""
    if isinstance(does, tuple):
        return does
    return (chunked(does),) if stream else sized(does)


def script_of(found: Iterable[Case]) -> Script:
    """The script of a server that plays these cases, by model. Other requests get a healthy answer."""
    scripts = {(case.name, case.stream): case.steps for case in found}

    def script(head: bytes, body: dict[str, Any]) -> Sequence[Step]:
        stream = bool(body.get("stream"))
        if body["messages"][-1]["content"] != MISBEHAVE or body["model"] == "good":
            healthy = event({"role": "assistant", "content": HEALTHY}) + STOP + DONE
            return (chunked(healthy),) if stream else sized(whole({"role": "assistant", "content": HEALTHY}))
        if head.startswith(b"POST /elsewhere"):  # where redirects lead
            return (chunked(GOOD),) if stream else sized(_JSON)
        return scripts[body["model"], stream]

    return script

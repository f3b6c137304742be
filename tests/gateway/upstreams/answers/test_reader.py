"""Reading of bodies: whatever a target sends becomes deltas or the gateway's own error."""

import contextlib
import json
from collections import deque
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import AttemptFailed, UpstreamError
from gateway.parameters import MAX_N
from gateway.types import Delta, Piece
from gateway.upstreams.answers import reader as readers
from gateway.upstreams.answers.lenient import ChunkState
from gateway.upstreams.answers.reader import MAX_CALLS, AnswerReader
from gateway.upstreams.answers.sse_reader import MAX_EVENT_BYTES
from gateway.upstreams.parse_response import read_event, with_texts
from twolane.process.exact_json import JsonError
from twolane.process.http import compiled

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 10**30, 0.5, -1.5, 1e300, float("inf"), float("nan"), "", "0", "x", "\ud800", "stop"]),
)
NAMES = st.sampled_from(
    "choices index delta message content tool_calls function arguments name id usage error finish_reason logprobs"
    " function_call custom input role refusal reasoning_content prompt_tokens code type text".split()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def completions(draw: st.DrawFn) -> Any:
    """Documents that are almost right: any field may have any shape."""

    def odd(usual: Any) -> Any:
        return draw(st.one_of(st.just(usual), st.just(usual), st.just(usual), JSON))

    function = {"name": odd("f"), "arguments": odd("{}")}
    call = {"index": odd(0), "id": odd("c"), "type": odd("function"), odd_key(draw): odd(function)}
    body = {"role": "assistant", "content": odd("a"), "tool_calls": odd([odd(call)]), "function_call": odd(None)}
    choice = {
        "index": odd(0),
        draw(st.sampled_from(["delta", "message"])): odd(body),
        "finish_reason": odd("stop"),
        "logprobs": odd({"content": odd([1])}),
    }
    return odd({"id": odd("x"), "choices": odd([odd(choice)]), "usage": odd(None), "error": odd(None)})


def odd_key(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(["function", "function", "custom"]))


def read(body: bytes, *, stream: bool, cuts: list[int] | None = None) -> list[Delta]:
    reader = AnswerReader(stream=stream, max_bytes=1 << 20)
    borders = [0, *sorted(min(cut, len(body)) for cut in cuts or ()), len(body)]
    found = [delta for start, end in pairwise(borders) for delta in reader.feed(body[start:end])]
    return found + reader.close()


@pytest.mark.slow
@given(
    documents=st.lists(completions() | JSON, max_size=4),
    as_events=st.booleans(),
    stream=st.booleans(),
    done=st.booleans(),
)
def test_any_shape_is_read_or_the_target_s_fault(
    documents: list[Any], as_events: bool, stream: bool, done: bool
) -> None:
    """And whatever is read can be repaired, or cannot be written again."""
    texts = [json.dumps(document).encode() for document in documents]
    body = b"".join(b"data: %s\n\n" % text for text in texts) if as_events else b"".join(texts)
    try:
        deltas = read(body + b"data: [DONE]\n\n" * done, stream=stream)
    except AttemptFailed:
        return
    whole = [delta for delta in deltas if delta.data]
    with contextlib.suppress(AttemptFailed, JsonError):
        with_texts(whole, {(0, None): "b", (0, 0): "[]"}, is_chunk=stream)


@given(
    body=st.binary(max_size=60), lead=st.sampled_from([b"", b"data: ", b"{", b"\xef\xbb\xbf", b"event: error\ndata:"])
)
def test_any_bytes_are_read_or_the_target_s_fault(body: bytes, lead: bytes) -> None:
    """And with the same result wherever they are cut."""

    def found(stream: bool, cuts: list[int]) -> list[Delta] | type[AttemptFailed]:
        try:
            return read(lead + body, stream=stream, cuts=cuts)
        except AttemptFailed as error:
            return type(error)

    for stream in (True, False):
        assert found(stream, []) == found(stream, list(range(len(lead + body))))


def choice(**more: Any) -> dict[str, Any]:
    return {"index": 0, "finish_reason": None, **more}


def events(*choices: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps({"choices": [each]}).encode() + b"\n\n" for each in choices)


@pytest.mark.parametrize("index", [-1, None, 0.0, "0", "x", 0.7])
@pytest.mark.parametrize("stream", [True, False])
def test_an_impossible_index_of_choice_or_call_is_read_as_its_position(index: Any, stream: bool) -> None:
    call = {"index": index, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    said = choice(index=index, delta={"content": "a", "tool_calls": [call]}, finish_reason="stop")
    found = [delta for delta in read(events(said), stream=stream) if delta.data]
    piece = found[0].pieces[0]
    assert (piece.index, piece.text, piece.tool_calls[0].index) == (0, "a", 0)
    whole = json.dumps({"choices": [{**said, "message": said["delta"], "delta": None}]}).encode()
    assert read(whole, stream=stream)[0].pieces[0].tool_calls[0].name == "f"


def test_a_message_that_repeats_a_chunk_s_delta_is_not_read_twice() -> None:
    sent = [
        choice(delta={"content": "a"}, message={"content": "a"}),
        choice(delta={"content": "b"}, message={"content": "ab"}),
    ]
    sent.append(choice(delta={}, message={"content": "ab"}, finish_reason="stop"))
    for stream in (True, False):
        said = [delta for delta in read(events(*sent), stream=stream) if delta.data]
        assert "".join(piece.text for delta in said for piece in delta.pieces) == "ab"


@pytest.mark.parametrize("delta", [{}, {"content": ""}, None])
@pytest.mark.parametrize("stream", [True, False])
def test_a_delta_beside_a_whole_message_does_not_hide_it(delta: Any, stream: bool) -> None:
    body = {"choices": [choice(delta=delta, message={"content": "ab"}, finish_reason="stop")]}
    said = read(json.dumps(body).encode(), stream=stream)
    assert "".join(piece.text for each in said for piece in each.pieces) == "ab"


def test_a_stream_that_becomes_a_whole_response_is_reported_as_it_arrives() -> None:
    reader = AnswerReader(stream=False, max_bytes=1 << 20)
    first = reader.feed(events(choice(delta={"content": "a"})))
    assert [(delta.data, delta.pieces[0].text) for delta in first] == [(b"", "a")]
    reader.feed(events(choice(delta={"content": "b"}, finish_reason="stop")))
    [whole] = reader.close()
    assert json.loads(whole.data)["choices"][0]["message"]["content"] == "ab"


def test_a_character_that_two_events_share_is_joined() -> None:
    """JSON writes it as two escapes, and some servers cut between them."""
    call = {"index": 0, "function": {"name": "f", "arguments": '{"a": "\ud83d'}}
    more = {"index": 0, "function": {"arguments": '\ude00"}'}}
    sent = events(
        choice(delta={"content": "a\ud83d", "reasoning_content": "\ud83d", "tool_calls": [call]}),
        choice(delta={"content": "\ude00b", "reasoning_content": "\ude00", "tool_calls": [more]}),
        choice(delta={"content": "c\ud83d"}),
        choice(delta={"content": "d"}, finish_reason="stop"),
    )
    for stream in (True, False):
        pieces = [piece for delta in read(sent, stream=stream) if delta.data for piece in delta.pieces]
        assert "".join(piece.text for piece in pieces)[:3] == "a\U0001f600b"
        assert "".join(call.arguments for piece in pieces for call in piece.tool_calls) == '{"a": "\U0001f600"}'


@given(text=st.text(max_size=8), cuts=st.lists(st.integers(0, 16), max_size=4), stream=st.booleans())
def test_a_text_is_the_same_wherever_its_utf_16_is_cut(text: str, cuts: list[int], stream: bool) -> None:
    units = text.encode("utf-16-le")
    borders = [0, *sorted(min(2 * cut, len(units)) for cut in cuts), len(units)]
    parts = [units[start:end].decode("utf-16-le", "surrogatepass") for start, end in pairwise(borders)]
    sent = events(*(choice(delta={"content": part}) for part in parts), choice(delta={}, finish_reason="stop"))
    pieces = [piece for delta in read(sent, stream=stream) if delta.data for piece in delta.pieces]
    assert "".join(piece.text for piece in pieces) == text


@pytest.mark.parametrize("stream", [True, False])
def test_choices_calls_and_names_are_limited(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_NAME_CHARS", 5000)
    named = {"function": {"name": "f" * 10, "arguments": ""}}
    too_much: list[list[dict[str, Any]]] = [
        [choice(index=number, delta={"content": "a"}, finish_reason="stop") for number in range(MAX_N + 1)],
        [choice(delta={"tool_calls": [{"index": number, **named}]}) for number in range(MAX_CALLS + 1)],
        [choice(delta={"tool_calls": [{"index": 0, **named}]}) for _ in range(501)],
    ]
    for choices in too_much:
        with pytest.raises(UpstreamError, match="too many"):
            read(events(*choices), stream=stream)
    calls = [named for _ in range(MAX_CALLS + 1)]
    for choices in (too_much[0], [choice(message={"tool_calls": calls}, finish_reason="stop")]):
        with pytest.raises(UpstreamError, match="too many"):
            read(json.dumps({"choices": choices}).encode(), stream=stream)
    assert len(read(events(*too_much[0][:-1]), stream=True)) == MAX_N


@pytest.mark.parametrize("filler", [b"\n", b": ping\n\n", b"data: {}\n\n", b"event: ping\ndata: x\n\n", b"\r"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_that_brings_nothing_is_ended(filler: bytes, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_EVENT_BYTES", 1 << 16)
    reader = AnswerReader(stream=stream, max_bytes=1 << 30)
    reader.feed(events(choice(delta={"content": "a"})))
    part = filler * (4096 // len(filler))
    parts = (part for _ in range(2 * (1 << 16) // len(part)))
    with pytest.raises(UpstreamError, match="too large"):
        deque(map(reader.feed, parts), maxlen=0)


def test_events_that_bring_nothing_end_a_stream_also_if_each_arrives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_EVENT_BYTES", 1 << 12)
    reader = AnswerReader(stream=True, max_bytes=1 << 30)
    reader.feed(events(choice(delta={"content": "a"})))
    with pytest.raises(UpstreamError, match="too large"):
        deque(map(reader.feed, [b'data: {"a":1}\n\n'] * (1 << 10)), maxlen=0)


@given(
    st.integers(0, 99), st.integers(0, 2), st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b":", b"}", b"\xff", b"\0"])
)
@example(15, 0, b"\r")
@example(22, 0, b"\r\r")
def test_an_event_that_arrives_alone_is_read_as_one_that_arrives_in_parts(at: int, cut: int, put: bytes) -> None:
    event = events(choice(delta={"content": "b"}))
    event = event[:at] + put + event[at + cut :]

    def found(*parts: bytes) -> list[Delta] | str:
        reader = AnswerReader(stream=True, max_bytes=1 << 20)
        reader.feed(events(choice(delta={"content": "a"})))
        try:
            return [delta for part in parts for delta in reader.feed(part)]
        except AttemptFailed as error:
            return repr(error)

    assert found(event) == found(event[:3], event[3:])


TEXT_EVENT = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"w\xc3\xa9"},"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n'
)
ODD_PARTS = (
    *(
        b"",
        b" ",
        b'"',
        b",",
        b"}",
        b"]",
        b"\n",
        b"\r",
        b"\\",
        b"\\n",
        b"\xff",
        b"\xed\xa0\x80",
        b"1",
        b"-",
        b"1.5",
        b"null",
    ),
    *(
        b'"error":{"message":"m"},',
        b'"message":{"content":"b"},',
        b'"refusal":"no",',
        b'"tool_calls":null,',
        b'"audio":null,',
    ),
    *(b'"index":1,', b'"finish_reason":"stop",', b'"reasoning":"r",', b"{}", b'{"index":1,"delta":{"content":"b"}},'),
)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, put in edits:
        data = data[: at % (len(data) + 1)] + put + data[at % (len(data) + 1) + cut :]
    return data


@pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled readers are not built")
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 12), st.sampled_from(ODD_PARTS)), max_size=3),
)
@example([])
def test_an_event_that_is_read_quickly_is_read_alike(edits: list[tuple[int, int, bytes]]) -> None:
    event = edited(TEXT_EVENT, edits)
    found = compiled.read_text_event(event)
    if found is None:
        assert edits
        return
    data, index, text = found
    assert event == b"data: " + data + b"\n\n"
    expected = read_event(data, ChunkState())
    assert expected == Delta(data=data, pieces=(Piece(index=index, text=text, is_answer=True),))


@pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled readers are not built")
@pytest.mark.parametrize(
    ("part", "other"),
    [
        *((b'"usage":null', other) for other in (b'"usage":{"prompt_tokens":1}', b'"error":null', b'"error":{}')),
        *((b'"finish_reason":null', other) for other in (b'"finish_reason":"stop"', b'"finish_reason":""')),
        (b'"logprobs":null', b'"message":{"content":"b"}'),
        *(
            (b'"role":"assistant"', b'"' + other)
            for other in (b'content":"b"', b'refusal":"no"', b'tool_calls":[]', b'function_call":null', b'audio":{}')
        ),
        *((b'"role":"assistant"', other) for other in (b'"reasoning":"r"', b'"reasoning_content":"r"')),
        *((b'"index":0', b'"index":' + other) for other in (b"1.0", b"-1", b"-0", b"00", b"10000", b'"0"', b"null")),
        (b'"index":0,', b""),
        *((b"w\xc3\xa9", other) for other in (b"", b"\\u0041", b"\\n", b"\xc3", b"\xed\xa0\x80", b"\0", b"\x1f")),
        *((b'"id":"c"', b'"id":' + other) for other in (b"NaN", b"1e9", b"9" * 18, b"[" * 70 + b"]" * 70, b'"\xff"')),
        (b'"id":"c"', b'"\\u0069d":"c"'),
        (b'"choices":[', b'"choices":[{"index":1,"delta":{"content":"b"}},'),
        (b'"choices":[', b'"choices":[],"b":['),
    ],
)
def test_an_event_that_is_more_than_a_text_is_left_to_the_full_reader(part: bytes, other: bytes) -> None:
    assert part in TEXT_EVENT
    assert compiled.read_text_event(TEXT_EVENT.replace(part, other)) is None


ESCAPES = (rb"\n", rb"\"", rb"\\", rb"\u00e9", rb"\u0000", rb"\u", rb"\ud83d\ude00", rb"\x", b"\xf0\x9f\x98\x80", b'"')


@pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled readers are not built")
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 12), st.sampled_from(ODD_PARTS + ESCAPES)), max_size=2),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from((b"", b"0\r\n\r\n", b"a8", b"\r\n")),
)
@example([[], []], b"")
@example([[(TEXT_EVENT.index(b"w\xc3"), 0, rb"\n\u00e9")]], b"")
def test_chunks_that_are_relayed_bring_what_the_reader_would_find(
    edits: list[list[tuple[int, int, bytes]]], behind: bytes
) -> None:
    events = [edited(TEXT_EVENT, each) for each in edits]
    found = compiled.read_text_chunks(b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + behind)
    if found is None:
        assert any(edits) or behind
        return
    assert not behind
    size, index, characters = found
    assert size == len(b"".join(events))
    deltas = [delta for event in events if (delta := read_event(event[6:-2], ChunkState()))]
    assert [event[6:-2] for event in events] == [delta.data for delta in deltas]
    pieces = [piece for delta in deltas for piece in delta.pieces]
    assert pieces == [Piece(index=index, text=piece.text, is_answer=True) for piece in pieces]
    assert len(pieces) == len(events)
    assert sum(len(piece.text) for piece in pieces) == characters


@pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled readers are not built")
def test_escapes_of_a_text_that_is_relayed_are_single_characters() -> None:
    event = TEXT_EVENT.replace(b"w\xc3\xa9", rb"\n\u00e9\"" + "é😀".encode())
    chunk = b"%X\r\n%b\r\n" % (len(event), event)
    assert compiled.read_text_chunks(chunk + chunk) == (2 * len(event), 0, 10)
    assert compiled.read_text_chunks(chunk + chunk.replace(b'"index":0', b'"index":1')) is None


def test_heartbeats_between_events_do_not_add_up() -> None:
    reader = AnswerReader(stream=True, max_bytes=1 << 23)
    for _ in range(8):
        reader.feed(b": " + b"x" * (MAX_EVENT_BYTES // 4) + b"\n\n")
        assert reader.feed(events(choice(delta={"content": "a"})))


@pytest.mark.parametrize("name", ["choices", "x"])
def test_a_response_of_very_many_objects_is_not_built(name: str) -> None:
    reader = AnswerReader(stream=False, max_bytes=1 << 23)
    reader.feed(b'{"%s":[' % name.encode() + b"{}," * (1 << 20) + b"{}]}")
    with pytest.raises(UpstreamError) as raised:
        reader.close()
    assert "objects" in raised.value.detail

"""What editors and their plugins send, and the fields of the answer that they read, through a real gateway.

The shapes are those of the clients' own sources; the texts are ours.
"""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import RealGateway, completion, fake_server, start_stream, until_known
from tests.gateway.test_responses import USAGE, Model, call

pytestmark = pytest.mark.anyio

COMPLETIONS, FILL_IN = "/v1/completions", "/v1/fim/completions"
EDIT, APPLY, CHAT = "/v1/edit/completions", "/v1/apply/completions", "/v1/chat/completions"
READY = {"state": "ready", "predicted_wait_ms": 0}
WORKER_CAN = dict.fromkeys(("chat", "completions", "suffix", "stream", "seed", "temperature", "top_p", "stop"), True)
WORKER_CAN |= {"presence_penalty": True, "frequency_penalty": True, "prediction": "anchored"}  # type: ignore[dict-item]
POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "%s", model: diffusion, location: in_cluster}
  quality: {kind: openai, engine: openai, url: "%s", model: big, location: external}
routes:
  - {name: edits, when: {task: [edit, autocomplete], confidence: ">= 0.6"}, use: fast, fall_back: [quality]}
  - {name: default, use: quality}
"""
CODE = "def greet(name):\n    print('hi')"
BEFORE, AFTER = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))"
# Every marker of every family, as Zed stops at them.
STOPS = (
    "<|endoftext|> <|file_separator|> <|fim_pad|> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <fim_prefix>"
    " <fim_middle> <fim_suffix> <PRE> <SUF> <MID> [PREFIX] [SUFFIX]"
).split()


class Stack:
    """A gateway, a fake worker, and a fake server with chat completions only."""

    def __init__(self, gateway: RealGateway, fast: Any, quality: Any) -> None:
        self.gateway, self.fast, self.quality = gateway, fast, quality

    async def ask(self, path: str, **body: Any) -> tuple[int, dict[str, str], Any]:
        return await self.gateway.ask({"model": "auto", **body}, path=path)

    async def chunks(self, path: str, **body: Any) -> list[dict[str, Any]]:
        status, _, raw = await self.ask(path, stream=True, **body)
        assert status == 200, raw
        events = raw.strip().split(b"\n\n")
        assert events.pop() == b"data: [DONE]"
        return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The worker's answer: to a gap or a prompt a sum, to an edit the text that it starts from."""
    predicted = body.get("prediction", {}).get("content", "").replace("'hi'", "name")
    texts = [predicted] if "messages" in body else ["a", " + b"]
    head = {"id": "cmpl-1", "created": 1, "model": "diffusion"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    name, inside = ("message", "delta") if "messages" in body else ("text", "text")

    def choice(text: str, reason: str | None, key: str) -> dict[str, Any]:
        return {"index": 0, key: text if key == "text" else {"content": text}, "finish_reason": reason}

    if not body.get("stream"):
        return web.json_response({**head, "choices": [choice("".join(texts), "stop", name)], "usage": usage})
    stream = await start_stream(request)
    parts = [{**head, "choices": [choice(text, None, inside)]} for text in texts]
    parts += [{**head, "choices": [choice("", "stop", inside)]}, {**head, "choices": [], "usage": usage}]
    await stream.write(b"".join(b"data: " + orjson.dumps(part) + b"\n\n" for part in parts) + b"data: [DONE]\n\n")
    return stream


@pytest.fixture
async def stack(serving: Any) -> AsyncIterator[Stack]:
    models = {"data": [{"id": "diffusion", "twolane": {"capabilities": WORKER_CAN}}]}
    async with (
        fake_server(answer, health=READY, models=models) as fast,
        fake_server() as quality,
        serving(POLICY % (fast.url, quality.url)) as gateway,
    ):
        await until_known(gateway, "fast")
        yield Stack(gateway, fast, quality)


async def test_zed_marks_the_gap_in_the_prompt_and_stops_at_every_marker(stack: Stack) -> None:
    """`open_ai_compatible_api`: the answer's `usage` and its sum are required."""
    status, headers, told = await stack.ask(
        COMPLETIONS,
        prompt=f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>",
        max_tokens=64,
        stop=STOPS,
        environment=None,
    )
    assert status == 200
    assert {"id", "object", "created", "model", "choices", "usage"} <= told.keys()
    assert (told["object"], told["choices"][0]["text"], told["usage"]["total_tokens"]) == (
        "text_completion",
        "a + b",
        5,
    )
    assert (headers["x-twolane-task"], headers["x-twolane-route"]) == ("autocomplete", "edits")
    assert stack.fast.paths == [COMPLETIONS]
    (sent,) = stack.fast.bodies
    assert (sent["prompt"], sent["suffix"], "stop" in sent) == (BEFORE, AFTER, False)
    labels = 'gen_ai_operation_name="text_completion",gen_ai_provider_name="twolane",gen_ai_request_model="fast"'
    assert labels in await stack.gateway.metrics()
    url = f"{stack.gateway.admin_url}/admin/decisions/{headers['x-request-id']}"
    async with stack.gateway.client.get(url) as response:
        assert (await response.json())["path"] == COMPLETIONS


async def test_continue_reads_delta_content_of_a_fill_in(stack: Stack) -> None:
    chunks = await stack.chunks(
        FILL_IN, prompt=BEFORE, suffix=AFTER, max_tokens=150, temperature=0.01, top_p=1, stop=["\n\n"]
    )
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "a + b"
    assert all(chunk["choices"] for chunk in chunks)


async def test_continue_sends_a_placeholder_for_an_empty_suffix(stack: Stack) -> None:
    chunks = await stack.chunks(COMPLETIONS, prompt=BEFORE, suffix="<|endoftext|>", stop=["\n\n", "\n \n"])
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "a + b"
    assert "suffix" not in stack.fast.bodies[0]


async def test_minuet_reads_text_of_completions_and_message_content_of_fill_ins(stack: Stack) -> None:
    optional = {"max_tokens": 56, "top_p": 0.9}
    _, _, told = await stack.ask(COMPLETIONS, prompt=BEFORE, suffix=AFTER, stream=False, **optional)
    assert told["choices"][0]["text"] == "a + b"
    _, _, told = await stack.ask(FILL_IN, prompt=BEFORE, suffix=AFTER, stream=False, **optional)
    assert told["choices"][0]["message"]["content"] == told["choices"][0]["text"] == "a + b"


async def test_minuet_streams_with_its_defaults_and_adds_up_each_chunk_s_text(stack: Stack) -> None:
    """It streams unless told otherwise, and asks for no usage."""
    optional = {"max_tokens": 56, "top_p": 0.9, "stop": ["\n\n"]}
    chunks = await stack.chunks(COMPLETIONS, prompt=BEFORE, suffix=AFTER, **optional)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "a + b"
    chunks = await stack.chunks(FILL_IN, prompt=BEFORE, suffix=AFTER, **optional)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "a + b"


ROO_TOOL = {
    "name": "read_file",
    "description": "Read a file of the project.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "line": {"type": ["integer", "null"]}},
        "required": ["path", "line"],
        "additionalProperties": False,
    },
}
ROO_CALL = {"name": "read_file", "arguments": '{"path": "greet.py", "line": null}'}


async def test_roo_streams_a_chat_with_tools_and_reads_the_call_and_the_usage(stack: Stack) -> None:
    """Strict tools, the user's text in parts, and the result of an earlier call."""
    model = Model()
    model.messages = [{"content": "I read it.", "tool_calls": [call(*ROO_CALL.values(), "call_2")]}]
    stack.quality.answer = model.answer
    earlier = {"id": "call_1", "type": "function", "function": ROO_CALL}
    parts = [{"type": "text", "text": text} for text in ("<task>Say the name.</task>", "<environment_details/>")]
    body = {
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "You are a software engineer."},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "", "tool_calls": [earlier]},
            {"role": "tool", "tool_call_id": "call_1", "content": CODE},
        ],
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": ROO_TOOL}],
        "parallel_tool_calls": True,
    }
    chunks = await stack.chunks(CHAT, **body)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "I read it."
    calls = [each for delta in deltas for each in delta.get("tool_calls", ())]
    assert (calls[0]["id"], calls[0]["function"]["name"], {each["index"] for each in calls}) == (
        "call_2",
        "read_file",
        {0},
    )
    assert "".join(each["function"]["arguments"] for each in calls) == ROO_CALL["arguments"]
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] == "tool_calls"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["prompt_tokens"]) == ([], USAGE["prompt_tokens"])
    (sent,) = stack.quality.bodies
    assert {name: sent[name] for name in body} == body


async def test_kilo_streams_a_fill_in_and_counts_its_tokens(stack: Stack) -> None:
    chunks = await stack.chunks(
        FILL_IN, prompt=BEFORE, suffix=AFTER, max_tokens=256, temperature=0.2, stream_options={"include_usage": True}
    )
    assert chunks[-1]["usage"]["total_tokens"] == 5
    assert chunks[-1]["choices"] == []


EDIT_PROMPT = (
    "<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>\n"
    "<|current_file_content|>\ncurrent_file_path: greet.py\n"
    "<|code_to_edit|>\ndef greet(name):<|cursor|>\n    print('hi')\n<|/code_to_edit|>\n<|/current_file_content|>\n"
    "<|edit_diff_history|>\n\n<|/edit_diff_history|>"
)
EDITED = "def greet(name):\n    print(name)"


async def test_an_editor_cuts_the_next_edit_out_of_its_fence(stack: Stack) -> None:
    """Zed removes a fence of bare backticks; Continue cuts from its first line to the empty one."""
    status, headers, told = await stack.ask(EDIT, messages=[{"role": "user", "content": EDIT_PROMPT}], stop=[])
    assert (status, headers["x-twolane-task"]) == (200, "edit")
    content = told["choices"][0]["message"]["content"]
    assert content.removeprefix("```\n").removesuffix("\n```").rstrip("\n") == EDITED
    assert content[content.index("```\n") + 4 : content.rindex("\n\n```")] == EDITED
    (sent,) = stack.fast.bodies
    assert sent["prediction"]["content"] == CODE


async def test_continue_streams_an_edit(stack: Stack) -> None:
    own = {"role": "system", "content": "Edit the marked section."}
    chunks = await stack.chunks(EDIT, messages=[own, {"role": "user", "content": EDIT_PROMPT}], max_tokens=2048)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == f"```\n{EDITED}\n\n```"


async def test_an_update_is_merged_into_the_bare_file(stack: Stack) -> None:
    update = "def greet(name):\n    print(name)"
    text = f"<|original_code|>\n{CODE}\n<|/original_code|>\n\n<|update_snippet|>\n{update}\n<|/update_snippet|>"
    _, headers, told = await stack.ask(APPLY, messages=[{"role": "user", "content": text}])
    assert told["choices"][0]["message"]["content"] == EDITED
    assert headers["x-twolane-attempts"] == "fast=ok"


@pytest.mark.parametrize("tag", ["instruction", "instructions", None])
async def test_morph_s_and_relace_s_tags_in_a_chat_are_an_edit_from_the_code(stack: Stack, tag: str | None) -> None:
    """As the AI SDK's Morph provider, Kilo's fast apply and Relace's clients send them."""
    instruction = f"<{tag}>Print the name.</{tag}>\n" if tag else ""
    text = f"{instruction}<code>{CODE}</code>\n<update>    print(name)</update>"
    _, headers, told = await stack.ask(CHAT, messages=[{"role": "user", "content": text}])
    assert told["choices"][0]["message"]["content"] == EDITED
    assert (headers["x-twolane-task"], headers["x-twolane-target"]) == ("edit", "fast")
    assert stack.fast.bodies[0]["messages"] == [{"role": "user", "content": text}]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_chat_model_takes_over_when_the_worker_fails(stack: Stack, streams: bool) -> None:
    async def down(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no"}}, status=500)

    stack.fast.answer = down
    body = {"prompt": BEFORE, "suffix": AFTER}
    if streams:
        chunks = await stack.chunks(COMPLETIONS, **body)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hello"
    else:
        _, headers, told = await stack.ask(COMPLETIONS, **body)
        assert headers["x-twolane-attempts"] == "fast=upstream_error,quality=ok"
        assert (told["object"], told["choices"][0]["text"]) == ("text_completion", "hello")
    assert stack.quality.paths == [CHAT]
    assert stack.quality.bodies[0]["messages"][1]["content"] == f"{BEFORE}<GAP>{AFTER}"


async def test_a_completion_with_a_format_is_checked_and_falls_back(stack: Stack) -> None:
    """The worker writes no JSON here, so the quality lane answers, in the form of a text completion."""

    async def says_json(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(completion('{"sum": 3}'))

    stack.quality.answer = says_json
    _, headers, told = await stack.ask(COMPLETIONS, prompt="1 + 2 as JSON: ", response_format={"type": "json_object"})
    assert headers["x-twolane-attempts"] == "fast=unsupported,quality=ok"
    assert (headers["x-twolane-schema"], told["choices"][0]["text"]) == ("valid", '{"sum": 3}')
    stack.quality.answer = answer_text
    status, _, told = await stack.ask(COMPLETIONS, prompt="1 + 2: ", response_format={"type": "json_object"})
    assert (status, told["error"]["code"]) == (502, "invalid_output")


async def answer_text(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """No JSON."""
    return web.json_response(completion("three"))


async def test_several_prompts_are_several_calls_to_a_worker_and_one_answer(stack: Stack) -> None:
    _, headers, told = await stack.ask(COMPLETIONS, prompt=["x = ", "y = "], n=2, echo=True, seed=1)
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in told["choices"]] == ["x = a + b"] * 2 + ["y = a + b"] * 2
    assert told["usage"]["total_tokens"] == 20
    assert headers["x-twolane-attempts"] == "fast=ok"
    assert sorted((body["prompt"], body["seed"]) for body in stack.fast.bodies) == [
        *(("x = ", 1), ("x = ", 2)),
        *(("y = ", 3), ("y = ", 4)),
    ]


async def test_a_stream_of_several_prompts_numbers_its_choices(stack: Stack) -> None:
    chunks = await stack.chunks(COMPLETIONS, prompt=["x = ", "y = "], echo=True)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "x = a + b", 1: "y = a + b"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (COMPLETIONS, {}, 400, "prompt"),
        (COMPLETIONS, {"prompt": "a", "best_of": 2}, 400, "best_of"),
        (COMPLETIONS, {"prompt": "a", "model": "gpt-9"}, 404, "model"),
        (COMPLETIONS, {"prompt": [1, 2], "model": "quality"}, 400, "prompt"),
        (FILL_IN, {"prompt": 3}, 400, "prompt"),
        (EDIT, {"messages": [{"role": "user", "content": "hi"}]}, 400, "messages"),
        (APPLY, {"messages": []}, 400, "messages"),
    ],
)
async def test_an_error_has_openai_s_form_and_names_the_field(
    stack: Stack, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    got, headers, told = await stack.ask(path, **body)
    assert (got, told["error"]["param"], told["error"]["type"]) == (status, param, "invalid_request_error")
    assert headers["x-request-id"]


@pytest.mark.parametrize("path", [COMPLETIONS, FILL_IN, EDIT, APPLY])
async def test_other_methods_are_refused(stack: Stack, path: str) -> None:
    async with stack.gateway.client.get(stack.gateway.url + path) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")
        assert path in (await response.json())["error"]["message"]


async def test_a_prompt_that_is_too_long_is_named_as_the_prompt(stack: Stack) -> None:
    async def too_long(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        error = {"message": "Context too long.", "code": "context_length_exceeded", "param": "messages"}
        return web.json_response({"error": error}, status=400)

    stack.fast.answer = stack.quality.answer = too_long
    status, _, told = await stack.ask(COMPLETIONS, prompt="a")
    assert (status, told["error"]["param"]) == (400, "prompt")


async def test_a_stream_that_breaks_off_ends_with_an_error(stack: Stack) -> None:
    async def breaks(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await start_stream(request)
        choice = {"index": 0, "text": "a", "finish_reason": None}
        await stream.write(b"data: " + orjson.dumps({"id": "c", "choices": [choice]}) + b"\n\n")
        return stream

    stack.fast.answer = breaks
    _, _, raw = await stack.ask(COMPLETIONS, prompt="a", stream=True)
    assert b"event: error" in raw
    assert b"[DONE]" not in raw


async def test_a_target_with_text_completions_gets_all_prompts_at_once(serving: Any) -> None:
    async def both(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        choices = [{"index": n, "text": f"{n}", "finish_reason": "stop"} for n in range(2)]
        return web.json_response({"id": "cmpl-1", "choices": choices})

    policy = """
version: 1
targets: {raw: {kind: openai, engine: vllm, url: "%s/v1", model: m, location: in_cluster}}
routes: [{name: default, use: raw}]
"""
    async with fake_server(both) as server, serving(policy % server.url) as gateway:
        _, _, told = await gateway.ask({"model": "auto", "prompt": ["a", "b"]}, path=COMPLETIONS)
    assert [choice["text"] for choice in told["choices"]] == ["0", "1"]
    assert [(path, body["prompt"]) for path, body in zip(server.paths, server.bodies, strict=True)] == [
        (COMPLETIONS, ["a", "b"])
    ]

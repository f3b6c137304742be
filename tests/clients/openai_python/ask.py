"""Ask one question per case with OpenAI's client for Python.

stdin: {"url": ..., "cases": [{"model": ..., "stream": ..., "text": ...}]}; a case with `fields` in place of `text` is a
text completion with these fields. stdout: one JSON line for each, in order: {"text", "calls": [[name, arguments]],
"finished", "error"}. A case with `api` and `fields` is a call of one of `OTHERS`; its line is what the call returns.
"""

import json
import sys
from typing import Any

from openai import OpenAI


def main() -> None:
    """Sequential: a mistake in one case must not disturb another."""
    given = json.load(sys.stdin)
    client = OpenAI(base_url=given["url"], api_key="k", max_retries=0, timeout=60)
    for case in given["cases"]:
        seen = OTHERS[case["api"]](client, case["fields"]) if "api" in case else answer(client, case)
        print(json.dumps(seen), flush=True)


def respond(client: OpenAI, fields: dict[str, Any]) -> Any:
    """A whole response."""
    made = client.responses.create(**fields)
    return [made.status, made.output_text]


def accumulate(client: OpenAI, fields: dict[str, Any]) -> Any:
    """A response that the client's own accumulator builds from its events, and the text of the events."""
    with client.responses.stream(**fields) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        made = stream.get_final_response()
    return [made.status, made.output_text, text]


def decide(client: OpenAI, fields: dict[str, Any]) -> Any:
    """The answers to a decision's questions."""
    made = client.decisions.create(**fields)
    return [each.model_dump(mode="json") for each in made.answers]


def embed(client: OpenAI, fields: dict[str, Any]) -> Any:
    """The vectors."""
    return [each.embedding for each in client.embeddings.create(**fields).data]


def fill_in(client: OpenAI, fields: dict[str, Any]) -> Any:
    """The client has no method for it."""
    made: Any = client.post("/fim/completions", body=fields, cast_to=object)
    choice = made["choices"][0]
    return [choice["text"], choice["message"]["content"]]


def models(client: OpenAI, fields: dict[str, Any]) -> Any:
    """The names of all models."""
    return [each.id for each in client.models.list(**fields)]


OTHERS = {
    "responses": respond,
    "responses stream": accumulate,
    "decisions": decide,
    "embeddings": embed,
    "fill in": fill_in,
    "models": models,
}


def answer(client: OpenAI, case: dict[str, Any]) -> dict[str, Any]:
    """What an application sees of one answer."""
    seen: dict[str, Any] = {"text": "", "calls": [], "finished": False, "error": ""}
    try:
        made = create(client, case)
        for each in made if case["stream"] else [made]:
            for choice in (each and each.choices) or ():
                if "fields" in case:
                    seen["text"] += choice.text
                    seen["finished"] = seen["finished"] or bool(choice.finish_reason)
                else:
                    add(seen, choice.delta if case["stream"] else choice.message, choice)
    except Exception as error:  # an answer that the client cannot read raises whatever its parser raises
        seen["error"] = getattr(error, "code", None) or type(error).__name__
    return seen


def create(client: OpenAI, case: dict[str, Any]) -> Any:
    """The answer, or the stream of its chunks."""
    asked = {"model": case["model"], "stream": case["stream"]}
    if "fields" in case:
        return client.completions.create(**asked, **case["fields"])
    return client.chat.completions.create(**asked, messages=[{"role": "user", "content": case["text"]}])


def add(seen: dict[str, Any], part: Any, choice: Any) -> None:
    """Add a message, or a fragment of one, of the first choice."""
    if choice.index:
        return
    content = part.content
    seen["text"] += "".join(each["text"] for each in content) if isinstance(content, list) else content or ""
    seen["finished"] = seen["finished"] or bool(choice.finish_reason)
    for function in (*(call.function for call in part.tool_calls or ()), part.function_call):
        if function is None:
            continue
        if function.name:
            seen["calls"].append(["", ""])
        given = function.arguments
        text = given if isinstance(given, str) or given is None else json.dumps(given, separators=(",", ":"))
        seen["calls"][-1][0] += function.name or ""
        seen["calls"][-1][1] += text or ""


if __name__ == "__main__":
    main()

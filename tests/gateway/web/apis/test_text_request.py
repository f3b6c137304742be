"""Requests for text completions become the request of the pipeline; errors name the client's own fields."""

from typing import Any

import orjson
import pytest

from gateway.beyond_chat import Prompt
from gateway.enums import Capability, FormatKind, TargetApi, Task
from gateway.errors import BadRequest
from gateway.types import Query
from gateway.web.apis.text_request import MAX_CHOICES, parse_completion, parse_fill_in

MARKED = "<|fim_prefix|>a = <|fim_suffix|>\nb<|fim_middle|>"


def completion(headers: dict[bytes, bytes] | None = None, **fields: Any) -> Query:
    body = orjson.dumps({"model": "auto", "prompt": "def f():", **fields})
    return parse_completion(body, headers or {}, now_s=5.0, key=None)


def fill_in(**fields: Any) -> Query:
    return parse_fill_in(orjson.dumps({"model": "auto", **fields}), {}, now_s=5.0, key=None)


def test_a_completion_is_an_autocomplete_by_construction() -> None:
    query = completion(max_tokens=5, stream=True, stream_options={"include_usage": True})
    assert (query.beyond_chat.api, query.beyond_chat.prompts) == (TargetApi.COMPLETIONS, (Prompt(text="def f():"),))
    assert (query.task_hint, query.task_hint_from) == (Task.AUTOCOMPLETE, "api")
    assert (query.stream, query.include_usage, query.n, query.has_suffix) == (True, True, 1, False)
    assert (query.last_user_text, query.prefix_text, query.prompt_chars) == ("def f():", "def f():", 8)


def test_a_task_that_the_client_names_takes_precedence() -> None:
    query = completion({b"x-twolane-task": b"summarize"})
    assert (query.task_hint, query.task_hint_from) == (Task.SUMMARIZE, "header")


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", [Prompt(text="a")]),
        (["a"], [Prompt(text="a")]),
        (["a", "b"], [Prompt(text="a"), Prompt(text="b")]),
        ([1, 2], [Prompt(text=(1, 2))]),
        ([[1, 2], [3]], [Prompt(text=(1, 2)), Prompt(text=(3,))]),
        (["a", [3]], [Prompt(text="a"), Prompt(text=(3,))]),
        (MARKED, [Prompt(text="a = ", suffix="\nb", marked=MARKED)]),
    ],
)
def test_every_form_of_a_prompt_is_understood(prompt: Any, prompts: list[Prompt]) -> None:
    assert completion(prompt=prompt).beyond_chat.prompts == tuple(prompts)


def test_a_suffix_belongs_to_every_prompt_and_markers_beside_it_are_text() -> None:
    assert completion(prompt=["a", MARKED], suffix="b").beyond_chat.prompts == (
        Prompt(text="a", suffix="b"),
        Prompt(text=MARKED, suffix="b"),
    )
    assert completion(suffix="b").has_suffix
    assert completion(suffix="<|endoftext|>").beyond_chat.prompts == (Prompt(text="def f():"),)


def test_choices_of_all_prompts_count_together() -> None:
    assert completion(prompt=["a", "b", "c"], n=2).n == 6


def test_parameters_need_the_same_capabilities_as_in_a_chat() -> None:
    query = completion(temperature=0.5, logprobs=3, stop=["\n"], metadata={"private": True})
    assert query.needs == {Capability.TEMPERATURE, Capability.LOGPROBS, Capability.STOP}
    assert query.private
    assert completion(logprobs=0).needs == {Capability.LOGPROBS}
    assert completion(best_of=1, echo=False, logprobs=None, user="u").needs == frozenset()
    output_format = completion(response_format={"type": "json_object"}).output_format
    assert output_format is not None
    assert output_format.form is FormatKind.JSON_OBJECT


def test_the_parameters_are_kept_for_the_target() -> None:
    body = orjson.loads(completion(best_of=1, echo=True, suffix="x", logprobs=None, top_k=3, seed=7).body)
    del body["messages"]
    assert body == {"model": "auto", "top_k": 3, "seed": 7}
    assert orjson.loads(completion(logprobs=2).body)["top_logprobs"] == 2


@pytest.mark.parametrize(
    ("fields", "scores", "is_unanswered"),
    [
        ({"logprobs": 0}, True, False),
        ({"logprobs": 1, "max_tokens": 0}, True, True),
        ({"prompt": [[1, 2], [3]], "max_tokens": 1}, True, False),
        ({"logprobs": False}, False, False),
        ({}, False, False),
    ],
)
def test_prompts_are_scored_by_targets_that_can(fields: Any, scores: bool, is_unanswered: bool) -> None:
    """With log-probabilities, and for token ids, the target echoes them; otherwise the gateway does."""
    query = completion(echo=True, **fields)
    found = query.beyond_chat
    assert (found.scores_prompts, found.is_unanswered, found.echo) == (scores, is_unanswered, not scores)
    assert (Capability.PROMPT_LOGPROBS in query.needs) is scores


def test_a_gap_in_a_text_to_score_is_text() -> None:
    assert completion(prompt=MARKED, echo=True, logprobs=1).beyond_chat.prompts == (Prompt(text=MARKED),)


def test_tags_of_edits_have_no_meaning_in_a_prompt() -> None:
    assert completion(prompt="<code>a</code><update>b</update>").beyond_chat.source is None


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"prompt": None}, "prompt", "must be a text"),
        ({"prompt": 3}, "prompt", "must be a text"),
        ({"prompt": []}, "prompt", "must not be empty"),
        ({"prompt": [[]]}, "prompt[0]", "must not be empty"),
        ({"prompt": ["a", 3]}, "prompt[1]", "must be a text"),
        ({"prompt": [1, -2]}, "prompt[0]", "must be a text"),
        ({"prompt": [True]}, "prompt[0]", "must be a text"),
        ({"suffix": 3}, "suffix", "Expected"),
        ({"echo": "yes"}, "echo", "Expected"),
        ({"echo": True, "logprobs": 0, "suffix": "x"}, "suffix", "with 'logprobs'"),
        ({"echo": True, "max_tokens": -1, "logprobs": 0}, "max_tokens", ">= 1"),
        ({"echo": True, "max_tokens": False, "logprobs": 0}, "max_tokens", "Expected"),
        ({"best_of": 3}, "best_of", "must equal 'n' (1)"),
        ({"best_of": 1, "n": 2}, "best_of", "must equal 'n' (2)"),
        ({"logprobs": 21}, "logprobs", "<= 20"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 2, "prompt": ["a"] * (MAX_CHOICES // 2 + 1)}, "prompt", f"at most {MAX_CHOICES}"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages", "use 'prompt'"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"temperature": 3}, "temperature", "<= 2"),
        (
            {"metadata": {"private": "perhaps", "twolane_private": "perhaps"}},
            "metadata.twolane_private",
            "true or false",
        ),
        ({"model": ""}, "model", "length"),
    ],
)
def test_an_error_names_the_field(fields: dict[str, Any], param: str, part: str) -> None:
    with pytest.raises(BadRequest) as caught:
        completion(**fields)
    assert caught.value.param == param
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "auto"}', "prompt"),
        (b'{"prompt": "a"}', "model"),
        (b'{"model": "auto", "prompt": "a", "prompt": "b"}', "prompt"),
        (b'{"model": "auto", "prompt": "a", "metadata": {"private": true}, "metadata": {}}', "metadata"),
        (b"[]", None),
        (b"{", None),
    ],
)
def test_a_malformed_body_is_refused(body: bytes, param: str | None) -> None:
    for parse in (parse_completion, parse_fill_in):
        with pytest.raises(BadRequest) as caught:
            parse(body, {}, now_s=0.0, key=None)
        assert caught.value.param == param


def test_a_fill_in_takes_mistral_s_fields() -> None:
    query = fill_in(prompt="a = ", suffix="\nb", random_seed=7, min_tokens=0)
    assert (query.beyond_chat.prompts, query.task_hint) == ((Prompt(text="a = ", suffix="\nb"),), Task.AUTOCOMPLETE)
    assert orjson.loads(query.body)["seed"] == 7
    assert orjson.loads(fill_in(prompt="a", random_seed=7, seed=None).body)["seed"] == 7
    assert orjson.loads(fill_in(prompt="a", random_seed=7, seed=8).body)["seed"] == 8
    assert fill_in(prompt=MARKED).beyond_chat.prompts == (Prompt(text="a = ", suffix="\nb", marked=MARKED),)
    assert fill_in(prompt="a").beyond_chat.prompts == (Prompt(text="a"),)


def test_a_fill_in_has_one_text() -> None:
    for prompt in (["a"], [1], None):
        with pytest.raises(BadRequest) as caught:
            fill_in(prompt=prompt, suffix="b")
        assert caught.value.param == "prompt"


def test_a_fill_in_scores_no_prompt() -> None:
    """Its answer belongs between two texts."""
    for fields, param in (({"prompt": "a"}, "echo"), ({"prompt": "a", "suffix": "b"}, "suffix")):
        with pytest.raises(BadRequest) as caught:
            fill_in(echo=True, logprobs=1, **fields)
        assert caught.value.param == param

"""Targets: the URLs that are called, static headers and keys."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.errors import PolicyError
from gateway.policy_files.load import parse
from gateway.types import Target

GUIDE = (Path(__file__).parents[3] / "docs" / "policies.md").read_text()
DOCUMENTED = re.findall(r"^\| `(https://[^`]+)` \| `(https://[^`]+)` \|$", GUIDE, re.MULTILINE)


def target(environment: dict[str, str] | None = None, *, file: str = "policy", **fields: Any) -> Target:
    """A target of kind openai with these fields, as read from a policy."""
    entry = {"kind": "openai", "engine": "openai", "url": "https://h", "model": "m", "location": "external", **fields}
    for name in [*(["engine"] if entry["kind"] == "worker" else []), *(["url"] if "urls" in fields else [])]:
        del entry[name]
    routes = [{"name": "default", "use": "a"}]
    text = orjson.dumps({"version": 1, "targets": {"a": entry}, "routes": routes}).decode()
    return parse(text, environment or {}, file=file).targets["a"]


@pytest.mark.parametrize(("url", "called"), DOCUMENTED)
def test_the_guide_says_which_url_is_called(url: str, called: str) -> None:
    assert len(DOCUMENTED) >= 6
    assert target(url=url).chat_url == called


@pytest.mark.parametrize(
    ("url", "base", "called"),
    [
        ("https://h/", "https://h", "https://h/v1/chat/completions"),
        ("https://h/v1/", "https://h", "https://h/v1/chat/completions"),
        (" https://h/v1 ", "https://h", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h", "https://h/v1/chat/completions"),
        ("https://h/chat/completions", "https://h", "https://h/chat/completions"),
        ("https://h/x/chat/completions/", "https://h/x", "https://h/x/chat/completions/"),
        ("https://h/api/v1", "https://h/api", "https://h/api/v1/chat/completions"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai", "https://h/v1beta/openai/chat/completions"),
        ("https://h/openai/v1?api-version=x", "https://h/openai", "https://h/openai/v1/chat/completions?api-version=x"),
        ("http://[::1]:80/v1", "http://[::1]:80", "http://[::1]:80/v1/chat/completions"),
    ],
)
def test_the_path_as_given_decides_and_the_base_identifies_the_server(url: str, base: str, called: str) -> None:
    assert (target(url=url).url, target(url=url).chat_url) == (base, called)


@pytest.mark.parametrize("url", ["http://w:1", "http://w:1/v1", "http://w:1/v1/chat/completions"])
def test_a_worker_always_has_v1(url: str) -> None:
    found = target(kind="worker", url=url)
    assert (found.url, found.chat_url) == ("http://w:1", "http://w:1/v1/chat/completions")


def test_endpoints_keep_their_own_paths() -> None:
    found = target(urls=["http://a/v1", "http://b/openai"])
    assert [each.chat_url for each in found.endpoints] == [
        "http://a/v1/chat/completions",
        "http://b/openai/chat/completions",
    ]


def test_headers_take_variables_and_do_not_appear_in_the_representation() -> None:
    found = target({"AZURE_KEY": "secret"}, headers={"api-key": "${AZURE_KEY}", "X-Team": "a"})
    assert found.headers == (("api-key", "secret"), ("X-Team", "a"))
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"headers": {"content-length": "3-secret"}}, "this header is set by the gateway"),
        ({"headers": {"x-a": "a", "X-A": "3-secret"}}, "is set twice"),
        ({"headers": {"x a": "3-secret"}}, "expected the name of an HTTP header"),
        ({"headers": {"x-a": "3-secret\n"}}, "a character that cannot be sent"),
        ({"headers": {"x-a": "3-secret\u20ac"}}, "a character that cannot be sent"),
        ({"headers": {"Authorization": "3-secret"}, "key_env": "KEY"}, "set either this header or a key"),
        ({"key_env": "KEY", "key_file": "3-secret"}, "set either `key_env` or `key_file`"),
        ({"url": "https://user:3-secret@h"}, "must not contain credentials"),
        ({"kind": "worker", "url": "http://h?key=3-secret"}, "a query is allowed only for targets of kind openai"),
        ({"retry_after_max_s": -1}, "must be between 0 and 86400"),
    ],
)
def test_impossible_headers_and_keys_are_refused_without_repeating_them(fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(PolicyError) as raised:
        target(**fields)
    assert cause in raised.value.message
    assert "3-secret" not in raised.value.message


def test_a_relative_key_file_starts_at_the_folder_of_the_policy() -> None:
    assert target(key_file="keys/a", file="/etc/twolane/policy.yaml").key_file == "/etc/twolane/keys/a"
    assert target(key_file="/run/secrets/a", file="/etc/twolane/policy.yaml").key_file == "/run/secrets/a"


@pytest.mark.parametrize(
    ("decoding", "called"), [("diffusion", "d"), ("verified", "d:verified"), ("autoregressive", "d:autoregressive")]
)
def test_the_decoding_mode_of_a_worker_is_part_of_the_model_that_is_called(decoding: str, called: str) -> None:
    assert target(kind="worker", model="d", decoding=decoding, location="in_cluster").model == called


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": "d:verified", "decoding": "autoregressive"},
            "decoding: the model 'd:verified' names a decoding mode",
        ),
        ({"model": "d", "decoding": "verified", "diffusion": {"steps": 4}}, "diffusion: denoising parameters have no"),
    ],
)
def test_a_decoding_mode_that_contradicts_other_keys_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        target(kind="worker", location="in_cluster", **fields)


def test_thresholds_under_load_are_limits_of_a_worker() -> None:
    found = target(
        kind="worker", model="d", location="in_cluster", diffusion={"steps": 4, "under_load": {"stability": 0}}
    )
    assert found.diffusion == (("steps", 4), ("under_load", (("stability", 0),)))
    with pytest.raises(PolicyError, match="stability"):
        target(kind="worker", model="d", location="in_cluster", diffusion={"under_load": {"stability": 0.5}})
    with pytest.raises(PolicyError, match=r"under_load\.entropy_bound: must be at least 2, the value without load"):
        target(
            kind="worker",
            model="d",
            location="in_cluster",
            diffusion={"entropy_bound": 2, "under_load": {"entropy_bound": 1}},
        )

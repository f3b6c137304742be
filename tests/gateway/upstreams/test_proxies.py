"""Which proxy a target is called through."""

from dataclasses import replace

import pytest

from gateway.enums import Kind
from gateway.types import Target
from gateway.upstreams.proxies import proxy_for, proxy_of
from gateway.upstreams.registry import credential_problems

HTTPS = {"HTTPS_PROXY": "http://p:3128"}


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://api.example.com/v1", HTTPS, "http://p:3128"),
        ("http://api.example.com/v1", HTTPS, None),
        ("http://h", {"HTTP_PROXY": "p:3128"}, "http://p:3128"),
        ("http://h", {"ALL_PROXY": "http://all"}, "http://all"),
        ("https://h", {"ALL_PROXY": "http://all", **HTTPS}, "http://p:3128"),
        ("https://h", {"https_proxy": "http://small", **HTTPS}, "http://small"),
        ("https://h", {"https_proxy": "", **HTTPS}, None),
        ("https://h", {"HTTPS_PROXY": "https://user:pass@p"}, "https://user:pass@p"),
        ("http://h", {"HTTP_PROXY": "http://p", "REQUEST_METHOD": "GET"}, None),
        ("litellm:model", {"ALL_PROXY": "http://all"}, None),
        ("https://h", {}, None),
    ],
)
def test_the_variables_are_read_as_openai_s_clients_and_curl_read_them(
    url: str, environment: dict[str, str], proxy: str | None
) -> None:
    found = proxy_for(url, environment)
    assert (found and found.url) == proxy
    assert found is None or found.problem is None


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("a.example.com", "*", True),
        ("a.example.com", "example.com", True),
        ("a.example.com", ".example.com", True),
        ("a.example.com", "*.example.com", True),
        ("example.com", "example.com", True),
        ("a.example.com", "other.com, EXAMPLE.com", True),
        ("a.example.com", "other.com example.com", True),
        ("a.example.com", "https://example.com", True),
        ("badexample.com", "example.com", False),
        ("a.example.com", "b.example.com", False),
        ("a.example.com", "example.com:443", True),
        ("a.example.com", "example.com:8443", False),
        ("a.example.com:8443", "example.com:8443", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:8443", "10.1.2.3:8443", True),
        ("[fd00::1]", "fd00::/8", True),
        ("[::1]", "[::1]", True),
        ("[::1]:8443", "[::1]:8443", True),
        ("localhost", "localhost,127.0.0.1", True),
        ("a.example.com", "", False),
        ("a.example.com", " , ,", False),
    ],
)
def test_no_proxy_lists_what_is_called_directly(host: str, no_proxy: str, direct: bool) -> None:
    assert (proxy_for(f"https://{host}/v1", {**HTTPS, "NO_PROXY": no_proxy}) is None) == direct


@pytest.mark.parametrize("value", ["socks5://p:1080", "http://", "http://p:99999", "ftp://p"])
def test_a_proxy_that_cannot_be_used_is_a_problem_that_names_the_variable(value: str) -> None:
    found = proxy_for("https://h", {"HTTPS_PROXY": value})
    assert found is not None
    assert str(found.problem).startswith("HTTPS_PROXY: expected http://")


def test_the_policy_decides_which_targets_use_a_proxy() -> None:
    common = {"name": "a", "kind": Kind.OPENAI, "url": "https://h", "model": "m"}
    assert proxy_of(Target(**common, uses_proxy=False), HTTPS) is None
    assert proxy_of(Target(**common, uses_proxy=True), HTTPS) is not None


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_warned"),
    [("litellm:m", "", True), ("https://h", "", True), ("https://h", "h", False), ("http://h", "", False)],
)
def test_a_private_target_that_litellm_would_call_through_a_proxy_is_named(
    url: str, no_proxy: str, is_warned: bool
) -> None:
    target = Target(name="a", kind=Kind.LITELLM, url=url, model="m", location="in_cluster")
    warned = [each.text for each in credential_problems([target], {**HTTPS, "NO_PROXY": no_proxy})]
    assert [text.startswith("target a: litellm calls it through the proxy of HTTPS_PROXY") for text in warned] == (
        [True] if is_warned else []
    )
    assert not list(credential_problems([replace(target, uses_proxy=True)], HTTPS))

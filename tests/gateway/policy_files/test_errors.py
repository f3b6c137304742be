"""Every mistake in a policy is told with its line, its column, its key, and the nearest valid word."""

from collections.abc import Callable

import pytest

from gateway.errors import PolicyError
from gateway.policy_files.load import parse

Refused = Callable[..., PolicyError]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # Unknown keys and words, with the nearest known one.
        ("aliases:", "alias:", "2:1: alias: unknown key; did you mean 'aliases'?"),
        ("max_in_flight", "max_inflight", "9:5: targets.fast.max_inflight: unknown key; did you mean 'max_in_flight'?"),
        ("window_s: 60", "windows: 60", "22:24: routes[0].slo.windows: unknown key; did you mean 'window_s'?"),
        ("confidence:", "confidense:", "20:40: routes[0].when.confidense: unknown key; did you mean 'confidence'?"),
        ("[edit, auto", "[edti, auto", "20:19: routes[0].when.task[0]: unknown word 'edti'; did you mean 'edit'?"),
        ("buffer: full", "buffer: ful", "25:33: routes[0].validate.buffer: unknown word 'ful'; did you mean 'full'?"),
        (
            "location: in_cluster",
            "location: cluster",
            "8:5: targets.fast.location: unknown word 'cluster'; did you mean 'in_cl",
        ),
        ("engine: vllm", "engine: vlm", "14:5: targets.quality.engine: unknown engine 'vlm'; did you mean 'vllm'?"),
        ("kind: worker", "kind: works", "5:5: targets.fast.kind: unknown kind 'works'; did you mean 'worker'?"),
        ("kind: worker", "kind: scripted", "5:5: targets.fast.kind: unknown kind 'scripted'"),
        # Names that point nowhere.
        ("use: fast", "use: fats", "21:5: routes[0].use: no target called 'fats'; did you mean 'fast'?"),
        ("[quality]", "[quality, qualty]", "26:26: routes[0].fall_back[1]: no target called 'qualty'; did you mean"),
        ("fall_back: [quality]", "fall_back: nobody", "26:5: routes[0].fall_back[0]: no target called 'nobody'"),
        ("fall_back: [quality]", "fall_back: [fast]", "routes[0].fall_back[0]: 'fast' cannot fall back to itself"),
        ("[quality]", "[quality, quality]", "routes[0].fall_back[1]: 'quality' is named twice"),
        # Wishes of a worker.
        ("max_in_flight: 16", "diffusion: {steps: 0}", "9:17: targets.fast.diffusion.steps: 0 is not between 1 and 40"),
        ("max_in_flight: 16", "diffusion: {step: 1}", "targets.fast.diffusion.step: unknown key; did you mean 'steps'"),
        ("engine: vllm", "engine: vllm\n    diffusion: {}", "targets.quality.diffusion: only a target of kind worker"),
        # Values of the wrong type or out of range.
        ("p95_ms: 400", "p95_ms: soon", "22:11: routes[0].slo.p95_ms: expected a number, got text"),
        ("p95_ms: 400", "p95_ms: true", "22:11: routes[0].slo.p95_ms: expected a number, got true"),
        ("p95_ms: 400", "p95_ms: 0", "22:11: routes[0].slo.p95_ms: 0 is not between 1 and 3.6e+06"),
        ("p95_ms: 400", "p95_ms: .nan", "22:11: routes[0].slo.p95_ms: nan is not between"),
        ("{p95_ms: 400, window_s: 60}", "fast", "22:5: routes[0].slo: expected a mapping, got text"),
        ("{p95_ms: 400, window_s: 60}", "{window_s: 60}", "routes[0].slo: promises nothing: give `p95_ms`, `first_to"),
        ("{p95_ms: 400, window_s: 60}", "{p95ms: 60}", "routes[0].slo.p95ms: unknown key; did you mean 'p95_ms'?"),
        ("{p95_ms: 400, window_s: 60}", "{p95_ms: 4, base_ejection_s: 400}", "max_ejection_s is below base_ejection_s"),
        ("min_confidence: 0.8", "min_confidence: 80", "23:5: routes[0].min_confidence: 80 is not between 0 and 1"),
        (
            "max_in_flight: 16",
            "max_in_flight: 1.5",
            "9:5: targets.fast.max_in_flight: expected a whole number, got 1.5",
        ),
        ("max_in_flight: 16", "max_in_flight:", "9:5: targets.fast.max_in_flight: expected a number, got nothing"),
        ("model: diffusion", "model: 5", "7:5: targets.fast.model: expected text, got a number"),
        ("model: diffusion", 'model: ""', "7:5: targets.fast.model: expected text, got empty text"),
        ("    model: diffusion\n", "", "targets.fast: 'model' is missing"),
        ('">= 0.6"', "0.6", "20:40: routes[0].when.confidence: expected text, got a number"),
        ('">= 0.6"', '"~ 0.6"', 'routes[0].when.confidence: expected a comparison with a number up to 1, such as ">='),
        ('">= 0.6"', '">= 60"', "routes[0].when.confidence: expected a comparison"),
        ("[edit, autocomplete]", "{a: b}", "routes[0].when.task: expected text or a list of texts, got a mapping"),
        ("[edit, autocomplete]", "[edit, 5]", "routes[0].when.task[1]: expected text, got a number"),
        (
            "when: {task: [edit, autocomplete], confidence",
            "when: {stream: 1, confidence",
            "expected true or false, got",
        ),
        ("key_env: QUALITY_KEY", "key_env: sk-123-abc", "16:5: targets.quality.key_env: expected the name of an env"),
        # URLs.
        ("https://example.com/v1/", "example.com", "12:5: targets.quality.url: expected http://host"),
        ("https://example.com/v1/", "ftp://example.com", "targets.quality.url: expected http://host"),
        ("https://example.com/v1/", "http://u:p@example.com", "targets.quality.url: a base URL has no credentials"),
        ("https://example.com/v1/", "http://example.com?key=1", "a base URL has no credentials, query or fragment"),
        ("https://example.com/v1/", "http://example.com:99999", "targets.quality.url: not a URL"),
        ("    max_in_flight: 16\n", "    urls: [http://a]\n", "9:5: targets.fast.urls: give either `url` or `urls`"),
        ('url: "http://127.0.0.1:8001"', "urls: [http://a, b]", "6:22: targets.fast.urls[1]: expected http://host"),
        (
            'url: "http://127.0.0.1:8001"',
            "urls: [http://a, http://a/v1]",
            "urls[1]: 'http://a' is named twice",
        ),
        ('url: "http://127.0.0.1:8001"', "urls: []", "6:5: targets.fast.urls: expected at least one url"),
        # Names that cannot stand in a header, or mean something already.
        ("  fast:", "  auto:", "4:3: targets.auto: the name 'auto' is reserved"),
        ("name: edits", "name: direct", "19:5: routes[0].name: the name 'direct' is reserved"),
        ("name: edits", "name: my edits", "19:5: routes[0].name: a name is letters, digits"),
        ("  fast:", "  fast=1:", "targets.fast=1: a name is letters, digits"),
        ("  fast:", "  5:", "targets.5: a name is letters, digits"),
        # Routes as a whole.
        ("name: default", "name: edits", "27:5: routes[1].name: a second route called 'edits'"),
        (
            "    use: quality\n",
            "    use: quality\n    when: {stream: true}\n",
            "29:5: routes[1].when: the last route takes",
        ),
        (
            '    when: {task: [edit, autocomplete], confidence: ">= 0.6"}\n',
            "",
            "without `when` route 'edits' takes every",
        ),
        (
            "    use: fast\n",
            "    use: fast\n    private: true\n",
            "fall_back[0]: the route keeps requests in the clu",
        ),
        (
            "    use: quality\n",
            "    use: quality\n    private: true\n",
            "routes[1].use: the route keeps requests in",
        ),
        (
            "    use: quality\n",
            "    use: quality\n    private: here\n",
            "routes[1].private: expected true or false, got text",
        ),
        ("routes:\n", "routes: []\nold:\n", "18:1: routes: expected a list of mappings, got an empty list"),
        ("routes:\n", "routes: {}\nold:\n", "18:1: routes: expected a list of mappings, got a mapping"),
        ("  - name: default\n", "  - default\n  - name: default\n", "27:5: routes[1]: expected a mapping, got text"),
        # What a target must and must not state.
        ("    engine: vllm\n", "", "targets.quality: a target of kind openai needs either `engine` or `capabilities`"),
        (
            "    engine: vllm\n",
            "    engine: vllm\n    capabilities: [chat]\n",
            "needs either `engine` or `capabilities`",
        ),
        ("    max_in_flight: 16\n", "    engine: vllm\n", "9:5: targets.fast.engine: unknown key"),
        ("engine: vllm", "capabilities: [chat, sight]", "14:26: targets.quality.capabilities[1]: unknown word 'sight'"),
        ("buffer: full", "buffer: full, schema: none", "duplicate key"),
        ("{schema: request, buffer: full}", "{schema: none, buffer: full}", "nothing is held without a check"),
        # Extra attempts, and the time they may take.
        ("deadline_ms: 3000", "hedge: {max_share: 0.1}", "routes[0].hedge: needs either `after_ms` or `after: p95`"),
        ("deadline_ms: 3000", "hedge: {after_ms: 9, after: p95}", "24:26: routes[0].hedge.after: needs either"),
        ("deadline_ms: 3000", "hedge: {after: p59}", "routes[0].hedge.after: unknown word 'p59'; did you mean 'p95'?"),
        ("deadline_ms: 3000", "hedge: {after_ms: 9, max_share: 0.9}", "hedge.max_share: 0.9 is not between 0 and 0.5"),
        ("    slo: {p95_ms: 400, window_s: 60}\n", "    hedge: {after: p95}\n", "after: p95 needs `slo.p95_ms` on t"),
        ("    use: quality\n", "    use: quality\n    hedge: {after_ms: 9}\n", "hedging needs a `fall_back` behind"),
        ("max_in_flight: 16", "retry: {times: 9}", "9:13: targets.fast.retry.times: 9 is not between 1 and 3"),
        ("max_in_flight: 16", "retry: {max_share: 1.2}", "targets.fast.retry.max_share: 1.2 is not between 0 and 0.2"),
        ("deadline_ms: 3000", "attempt_ms: 9", "24:5: routes[0].attempt_ms: needs a `deadline_ms` to be a part of"),
        ("deadline_ms: 3000", "deadline_ms: 9\n    attempt_ms: 9", "25:5: routes[0].attempt_ms: 1 x 9 leaves the last"),
        ("slo: {p95_ms: 400", "hedge: {after: p95}\n    slo: {first_token_p95_ms: 4", "after: p95 needs `slo.p95_ms`"),
        # Conditions.
        ("when: {", "when: {prompt_char: 5, ", "routes[0].when.prompt_char: unknown key; did you mean 'prompt_chars'?"),
        ("when: {", "when: {prompt_chars: 5, ", "20:12: routes[0].when.prompt_chars: expected text, got a number"),
        (
            "when: {",
            'when: {prompt_chars: "~ 5", ',
            'a number up to 1.07374e+09, such as "> 8000"',
        ),
        ("when: {", "when: {header: x, ", "20:12: routes[0].when.header: expected a mapping, got text"),
        (
            "when: {",
            "when: {header: {X-Team: a}, ",
            "20:21: routes[0].when.header.X-Team: a header's name",
        ),
        (
            "when: {",
            "when: {header: {authorization: a}, ",
            "header.authorization: a credential decides",
        ),
        ("when: {", "when: {header: {x-team: 5}, ", "header.x-team: expected text or a list of texts, got a number"),
        ("when: {", "when: {time: night, ", "20:12: routes[0].when.time: expected a mapping, got text"),
        ("when: {", "when: {time: [{days: [mo]}], ", "when.time[0].days[0]: unknown word 'mo'; did you mean 'mon'?"),
        (
            "when: {",
            'when: {time: {from: "8"}, ',
            "20:19: routes[0].when.time.from: expected a time of day such",
        ),
        ("when: {", "when: {time: {from: 08:30, to: 9}, ", "routes[0].when.time.to: expected text, got a number"),
        ("when: {", 'when: {time: {from: "09:00", to: "09:00"}, ', "routes[0].when.time.from: the window is empty"),
        ("when: {", "when: {time: {zone: Mars/Base}, ", "zone: no time zone called 'Mars/Base' is known here"),
        ("when: {", "when: {time: {zone: ../../etc/passwd}, ", "zone: no time zone called '../../etc/passwd' is known"),
        # Shares.
        ("use: fast", "use: [fast, quality]", "21:5: routes[0].use: expected text, got a list"),
        ("use: fast", "use: {fast: 1, qualty: 1}", "routes[0].use.qualty: no target called 'qualty'; did you mean 'qu"),
        ("use: fast", "use: {fast: most}", "21:11: routes[0].use.fast: expected a number, got text"),
        ("use: fast", "use: {fast: 0, quality: 0}", "21:5: routes[0].use: somebody must have a share"),
        # Shadows.
        ("deadline_ms: 3000", "shadow: {share: 0.1}", "24:13: routes[0].shadow: 'target' is missing"),
        (
            "deadline_ms: 3000",
            "shadow: {target: fast, share: 2}",
            "routes[0].shadow.share: 2 is not between 0 and",
        ),
        ("deadline_ms: 3000", "shadow: {target: fats, share: 1}", "no target called 'fats'; did you mean 'fast'?"),
        # YAML itself.
        ("aliases: [small]", "aliases: [small", "not YAML"),
        ("aliases: [small]", "aliases: a: b", "2:11: not YAML: mapping values are not allowed here"),
        ("aliases: [small]", "version: 1", '2:1: not YAML: found duplicate key "version"'),
        ("aliases: [small]", "\taliases: [small]", "2:1: not YAML: found character"),
        ("aliases: [small]", "aliases: " + "[" * 600, "nested more than 64 deep"),
        ("aliases: [small]", "aliases: [*small]", "not YAML: found undefined alias"),
        ("aliases: [small]", "aliases: [\x01]", "not YAML"),
        ("aliases: [small]", "aliases: !!python/object:os.system x", "aliases: expected text or a list of texts"),
    ],
)
def test_a_mistake_is_told_with_place_and_key(refused: Refused, old: str, new: str, message: str) -> None:
    error = refused(old, new)
    assert message in str(error)
    assert str(error).startswith("p.yaml:")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("    min_confidence: 0.8\n", "    limits: {}\n", "routes[0].limits"),
        ("max_in_flight: 16", "limits: {}", "targets.fast.limits"),
    ],
)
def test_what_this_version_does_not_honour_is_refused_never_ignored(
    refused: Refused, old: str, new: str, key: str
) -> None:
    error = refused(old, new)
    assert error.key == key
    assert "not supported in this version" in str(error)
    assert error.line > 0
    assert error.column > 0


CONFIDENT = "    min_confidence: 0.8\n    deadline_ms: 3000\n    validate: {schema: request, buffer: full}\n"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("buffer: full", "buffer: first_bytes", "buffer"),  # its confidence would come too late
        ("buffer: full", "buffer: none", "buffer"),
        ("buffer: full", "first_bytes: 256", "first_bytes"),
        (CONFIDENT, "    validate: {buffer: first_bytes, repair: syntax}\n", "repair"),
        (CONFIDENT, "    validate: {buffer: first_bytes, first_bytes: 0}\n", "first_bytes"),
        (
            CONFIDENT + "    fall_back: [quality]\n",
            "    validate: {send_error_to_fallback: true}\n",
            "send_error_to_fallback",
        ),
        ("schema: request, buffer: full", "schema: none, buffer: full", "buffer"),
        ("schema: request, buffer: full", "schema: none, first_bytes: 9", "first_bytes"),
        ("schema: request, buffer: full", "schema: none, repair: syntax", "repair"),
        ("schema: request, buffer: full", "schema: none, send_error_to_fallback: true", "send_error_to_fallback"),
        ("buffer: full", "buffer: full, repair: all", "repair"),
        ("buffer: full", "buffer: full, holds: 1", "holds"),
    ],
)
def test_checks_that_contradict_themselves_are_refused(refused: Refused, old: str, new: str, key: str) -> None:
    error = refused(old, new)
    assert error.key == f"routes[0].validate.{key}"
    assert error.line > 0


def test_an_unset_variable_without_default_is_named_with_its_place(refused: Refused) -> None:
    error = refused("model: diffusion", 'model: "${MODEL}"')
    assert str(error) == ("p.yaml:7:5: targets.fast.model: environment variable MODEL is not set and has no default")


def test_a_malformed_variable_is_told(refused: Refused) -> None:
    assert "expected ${NAME} or ${NAME:-default}" in str(refused("model: diffusion", 'model: "${MODEL:=x}"'))


def test_a_key_that_came_by_a_merge_is_told_at_its_section(refused: Refused) -> None:
    base = "  base: &base {kind: openai, url: http://a, model: m, location: external, engine: vllm}\n"
    error = refused("  fast:\n    kind: worker\n", base + "  fast:\n    <<: *base\n    kind: worker\n")
    assert str(error).startswith("p.yaml:6:5: targets.fast.engine: unknown key")


def test_a_number_that_no_float_holds_is_told_and_not_raised(refused: Refused) -> None:
    error = refused("p95_ms: 400", f"p95_ms: 0x{'f' * 400}")
    assert str(error).startswith("p.yaml:22:11: routes[0].slo.p95_ms: expected a number")


def test_anchors_that_double_each_other_cost_no_more_than_they_are_long(refused: Refused) -> None:
    bomb = "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 60))  # 2^59 if walked
    error = refused("aliases: [small]\n", "a0: &a0 {x: z}\n" + bomb)
    assert "a0: unknown key" in str(error)


def test_a_variable_behind_an_alias_is_filled_wherever_it_is_named() -> None:
    text = (
        "version: 1\ntargets:\n"
        '  one: &one {kind: worker, url: "http://${HOST}", model: m, location: in_cluster}\n'
        "  two: *one\nroutes:\n  - {name: default, use: one}\n"
    )
    targets = parse(text, {"HOST": "h"}).targets
    assert [targets[name].url for name in ("one", "two")] == ["http://h", "http://h"]

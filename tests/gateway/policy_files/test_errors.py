"""Every error in a policy names line, column, key and the closest valid value."""

from collections.abc import Callable

import pytest

from gateway.errors import PolicyError
from gateway.policy_files.load import parse
from gateway.routing.policy import Policy

Refused = Callable[..., PolicyError]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # Unknown keys and values, with the closest valid one.
        ("aliases:", "alias:", "2:1: alias: unknown key; did you mean 'aliases'?"),
        ("max_in_flight", "max_inflight", "9:5: targets.fast.max_inflight: unknown key; did you mean 'max_in_flight'?"),
        ("window_s: 60", "windows: 60", "22:24: routes[0].slo.windows: unknown key; did you mean 'window_s'?"),
        ("confidence:", "confidense:", "20:40: routes[0].when.confidense: unknown key; did you mean 'confidence'?"),
        ("[edit, auto", "[edti, auto", "20:19: routes[0].when.task[0]: unknown value 'edti'; did you mean 'edit'?"),
        ("buffer: full", "buffer: ful", "25:33: routes[0].validate.buffer: unknown value 'ful'; did you mean 'full'?"),
        (
            "location: in_cluster",
            "location: a/b",
            "8:5: targets.fast.location: 'a/b' is not a location: expected 1 to 64",
        ),
        ("engine: vllm", "engine: vlm", "14:5: targets.quality.engine: unknown engine 'vlm'; did you mean 'vllm'?"),
        ("kind: worker", "kind: works", "5:5: targets.fast.kind: unknown kind 'works'; did you mean 'worker'?"),
        ("kind: worker", "kind: scripted", "5:5: targets.fast.kind: unknown kind 'scripted'"),
        # References to targets that do not exist.
        ("use: fast", "use: fats", "21:5: routes[0].use: unknown target 'fats'; did you mean 'fast'?"),
        ("[quality]", "[quality, qualty]", "26:26: routes[0].fall_back[1]: unknown target 'qualty'; did you mean"),
        ("fall_back: [quality]", "fall_back: nobody", "26:5: routes[0].fall_back[0]: unknown target 'nobody'"),
        (
            "fall_back: [quality]",
            "fall_back: [fast]",
            "routes[0].fall_back[0]: target 'fast' cannot fall back to itself",
        ),
        ("[quality]", "[quality, quality]", "routes[0].fall_back[1]: duplicate value 'quality'"),
        # Decoding parameters of a worker.
        ("max_in_flight: 16", "diffusion: {steps: 0}", "9:17: targets.fast.diffusion.steps: must be between 1 and 40"),
        ("max_in_flight: 16", "diffusion: {step: 1}", "targets.fast.diffusion.step: unknown key; did you mean 'steps'"),
        ("engine: vllm", "engine: vllm\n    decoding: verified", "targets.quality.decoding: allowed only for targets"),
        ("max_in_flight: 16", "decoding: verifed", "9:5: targets.fast.decoding: unknown value 'verifed'; did you mean"),
        ("engine: vllm", "engine: vllm\n    diffusion: {}", "targets.quality.diffusion: allowed only for targets of k"),
        # Values of the wrong type or out of range.
        ("p95_ms: 400", "p95_ms: soon", "22:11: routes[0].slo.p95_ms: expected a number, got a string"),
        ("p95_ms: 400", "p95_ms: true", "22:11: routes[0].slo.p95_ms: expected a number, got true"),
        ("p95_ms: 400", "p95_ms: 0", "22:11: routes[0].slo.p95_ms: must be between 1 and 3600000, got 0"),
        ("p95_ms: 400", "p95_ms: .nan", "22:11: routes[0].slo.p95_ms: must be between"),
        ("{p95_ms: 400, window_s: 60}", "fast", "22:5: routes[0].slo: expected a mapping, got a string"),
        ("{p95_ms: 400, window_s: 60}", "{window_s: 60}", "routes[0].slo: set `p95_ms`, `first_token_p95_ms` or"),
        ("{p95_ms: 400, window_s: 60}", "{p95ms: 60}", "routes[0].slo.p95ms: unknown key; did you mean 'p95_ms'?"),
        (
            "{p95_ms: 400, window_s: 60}",
            "{p95_ms: 4, base_ejection_s: 400}",
            "max_ejection_s must not be below base_ejection",
        ),
        (
            "min_confidence: 0.8",
            "min_confidence: 80",
            "23:5: routes[0].min_confidence: must be between 0 and 1, got 80",
        ),
        (
            "max_in_flight: 16",
            "max_in_flight: 1.5",
            "9:5: targets.fast.max_in_flight: expected a whole number, got 1.5",
        ),
        ("max_in_flight: 16", "max_in_flight:", "9:5: targets.fast.max_in_flight: expected a number, got null"),
        ("model: diffusion", "model: 5", "7:5: targets.fast.model: expected a string, got a number"),
        ("model: diffusion", 'model: ""', "7:5: targets.fast.model: expected a string, got an empty string"),
        ("    model: diffusion\n", "", "targets.fast: required key 'model' is missing"),
        ('">= 0.6"', "0.6", "20:40: routes[0].when.confidence: expected a string, got a number"),
        ('">= 0.6"', '"~ 0.6"', 'routes[0].when.confidence: expected a comparison with a number up to 1, such as ">='),
        ('">= 0.6"', '">= 60"', "routes[0].when.confidence: expected a comparison"),
        (
            "[edit, autocomplete]",
            "{a: b}",
            "routes[0].when.task: expected a string or a list of strings, got a mapping",
        ),
        ("[edit, autocomplete]", "[edit, 5]", "routes[0].when.task[1]: expected a string, got a number"),
        (
            "when: {task: [edit, autocomplete], confidence",
            "when: {stream: 1, confidence",
            "expected true or false, got",
        ),
        ("key_env: QUALITY_KEY", "key_env: sk-123-abc", "16:5: targets.quality.key_env: expected the name of an env"),
        # URLs.
        ("https://example.com/v1/", "example.com", "12:5: targets.quality.url: expected http://host"),
        ("https://example.com/v1/", "ftp://example.com", "targets.quality.url: expected http://host"),
        ("https://example.com/v1/", "http://u:p@example.com", "targets.quality.url: a base URL must not contain"),
        (
            "https://example.com/v1/",
            "http://user:key@example.com",
            "a base URL must not contain credentials or a fragment",
        ),
        (
            "https://example.com/v1/",
            "http://example.com/a b",
            "targets.quality.url: a URL must not contain white space",
        ),
        ("https://example.com/v1/", "http://example.com:99999", "targets.quality.url: invalid URL"),
        ("    max_in_flight: 16\n", "    urls: [http://a]\n", "9:5: targets.fast.urls: set either `url` or `urls`"),
        ('url: "http://127.0.0.1:8001"', "urls: [http://a, b]", "6:22: targets.fast.urls[1]: expected http://host"),
        (
            'url: "http://127.0.0.1:8001"',
            "urls: [http://a, http://a/v1]",
            "urls[1]: duplicate URL 'http://a'",
        ),
        ('url: "http://127.0.0.1:8001"', "urls: []", "6:5: targets.fast.urls: expected at least one URL"),
        # Names that are invalid in headers, or reserved.
        ("  fast:", "  auto:", "4:3: targets.auto: the name 'auto' is reserved"),
        ("name: edits", "name: direct", "19:5: routes[0].name: the name 'direct' is reserved"),
        ("name: edits", "name: my edits", "19:5: routes[0].name: a name consists of letters"),
        ("  fast:", "  fast=1:", "targets.fast=1: a name consists of letters"),
        ("  fast:", "  5:", "targets.5: a name consists of letters"),
        # Routes as a whole.
        ("name: default", "name: edits", "27:5: routes[1].name: duplicate route name 'edits'"),
        (
            "    use: quality\n",
            "    use: quality\n    when: {stream: true}\n",
            "29:5: routes[1].when: the last route must",
        ),
        (
            '    when: {task: [edit, autocomplete], confidence: ">= 0.6"}\n',
            "",
            "route 'edits' has no `when`, so the routes",
        ),
        (
            "    use: fast\n",
            "    use: fast\n    private: true\n",
            "fall_back[0]: target 'quality' is in external, outside the private locations: in_cluster",
        ),
        (
            "    use: quality\n",
            "    use: quality\n    private: true\n",
            "routes[1].use: target 'quality' is in external, outside the private",
        ),
        (
            "    use: fast\n",
            "    use: fast\n    locations: [in_cluster, eu]\n",
            "fall_back[0]: target 'quality' is in external, outside the route's locations: eu, in_cluster",
        ),
        (
            "    use: quality\n",
            "    use: quality\n    locations: external\n    shadow: {target: fast, share: 1}\n",
            "routes[1].shadow: target 'fast' is in in_cluster, outside the route's locations: external",
        ),
        (
            "    location: external\n",
            "    location: external.\n",
            "15:5: targets.quality.location: 'external.' is not a location: expected 1 to 64 letters",
        ),
        ("routes:\n", "private_locations: []\nroutes:\n", "private_locations: expected at least one location"),
        ("routes:\n", "private_locations: [eu, a b]\nroutes:\n", "private_locations[1]: 'a b' is not a location"),
        ("routes:\n", "private_locations: {}\nroutes:\n", "private_locations: expected a string or a list of strings"),
        (
            "    use: quality\n",
            "    use: quality\n    private: here\n",
            "routes[1].private: expected true or false, got a string",
        ),
        ("routes:\n", "routes: []\nold:\n", "18:1: routes: expected a list of mappings, got an empty list"),
        ("routes:\n", "routes: {}\nold:\n", "18:1: routes: expected a list of mappings, got a mapping"),
        (
            "  - name: default\n",
            "  - default\n  - name: default\n",
            "27:5: routes[1]: expected a mapping, got a string",
        ),
        # Engines and capabilities.
        (
            "    engine: vllm\n",
            "",
            "targets.quality: a target of kind openai requires exactly one of `engine` and `capabilities`",
        ),
        (
            "    engine: vllm\n",
            "    engine: vllm\n    capabilities: [chat]\n",
            "requires exactly one of `engine` and `capabilities`",
        ),
        ("    max_in_flight: 16\n", "    engine: vllm\n", "9:5: targets.fast.engine: unknown key"),
        (
            "engine: vllm",
            "capabilities: [chat, sight]",
            "14:26: targets.quality.capabilities[1]: unknown value 'sight'",
        ),
        ("buffer: full", "buffer: full, schema: none", "duplicate key"),
        ("{schema: request, buffer: full}", "{schema: none, buffer: full}", "schema: none requires buffer: none"),
        # Hedges, retries and time limits.
        ("deadline_ms: 3000", "hedge: {max_share: 0.1}", "routes[0].hedge: requires exactly one of `after_ms` and"),
        ("deadline_ms: 3000", "hedge: {after_ms: 9, after: p95}", "24:26: routes[0].hedge.after: requires exactly one"),
        ("deadline_ms: 3000", "hedge: {after: p59}", "routes[0].hedge.after: unknown value 'p59'; did you mean 'p95'?"),
        ("deadline_ms: 3000", "hedge: {after_ms: 9, max_share: 0.9}", "hedge.max_share: must be between 0 and 0.5"),
        ("    slo: {p95_ms: 400, window_s: 60}\n", "    hedge: {after: p95}\n", "`after: p95` requires `slo.p95_ms`"),
        ("    use: quality\n", "    use: quality\n    hedge: {after_ms: 9}\n", "hedge: requires a `fall_back` target"),
        ("max_in_flight: 16", "retry: {times: 9}", "9:13: targets.fast.retry.times: must be between 1 and 3"),
        ("max_in_flight: 16", "retry: {max_share: 1.2}", "targets.fast.retry.max_share: must be between 0 and 0.2"),
        ("deadline_ms: 3000", "attempt_ms: 9", "24:5: routes[0].attempt_ms: requires `deadline_ms` and `fall_back`"),
        ("deadline_ms: 3000", "deadline_ms: 9\n    attempt_ms: 9", "25:5: routes[0].attempt_ms: 1 x 9 ms uses up"),
        (
            "slo: {p95_ms: 400",
            "hedge: {after: p95}\n    slo: {first_token_p95_ms: 4",
            "`after: p95` requires `slo.p95_ms`",
        ),
        # Conditions.
        ("when: {", "when: {prompt_char: 5, ", "routes[0].when.prompt_char: unknown key; did you mean 'prompt_chars'?"),
        ("when: {", "when: {prompt_chars: 5, ", "20:12: routes[0].when.prompt_chars: expected a string, got a number"),
        (
            "when: {",
            'when: {prompt_chars: "~ 5", ',
            'a number up to 1.07374e+09, such as "> 8000"',
        ),
        ("when: {", "when: {header: x, ", "20:12: routes[0].when.header: expected a mapping, got a string"),
        (
            "when: {",
            "when: {header: {X-Team: a}, ",
            "20:21: routes[0].when.header.X-Team: a header name",
        ),
        (
            "when: {",
            "when: {header: {authorization: a}, ",
            "header.authorization: credentials cannot be matched",
        ),
        (
            "when: {",
            "when: {header: {x-team: 5}, ",
            "header.x-team: expected a string or a list of strings, got a number",
        ),
        ("when: {", "when: {time: night, ", "20:12: routes[0].when.time: expected a mapping, got a string"),
        ("when: {", "when: {time: [{days: [mo]}], ", "when.time[0].days[0]: unknown value 'mo'; did you mean 'mon'?"),
        (
            "when: {",
            'when: {time: {from: "8"}, ',
            "20:19: routes[0].when.time.from: expected a time of day in",
        ),
        ("when: {", "when: {time: {from: 08:30, to: 9}, ", "routes[0].when.time.to: expected a string, got a number"),
        (
            "when: {",
            'when: {time: {from: "09:00", to: "09:00"}, ',
            "routes[0].when.time.from: `from` and `to` must differ",
        ),
        ("when: {", "when: {time: {zone: Mars/Base}, ", "zone: unknown time zone 'Mars/Base'"),
        ("when: {", "when: {time: {zone: ../../etc/passwd}, ", "zone: unknown time zone '../../etc/passwd'"),
        # Shares.
        ("use: fast", "use: [fast, quality]", "21:5: routes[0].use: expected a string, got a list"),
        ("use: fast", "use: {fast: 1, qualty: 1}", "routes[0].use.qualty: unknown target 'qualty'; did you mean 'qu"),
        ("use: fast", "use: {fast: most}", "21:11: routes[0].use.fast: expected a number, got a string"),
        ("use: fast", "use: {fast: 0, quality: 0}", "21:5: routes[0].use: at least one share must be"),
        # Shadows.
        ("deadline_ms: 3000", "shadow: {share: 0.1}", "24:13: routes[0].shadow: required key 'target' is missing"),
        (
            "deadline_ms: 3000",
            "shadow: {target: fast, share: 2}",
            "routes[0].shadow.share: must be between 0 and",
        ),
        ("deadline_ms: 3000", "shadow: {target: fats, share: 1}", "unknown target 'fats'; did you mean 'fast'?"),
        # YAML itself.
        ("aliases: [small]", "aliases: [small", "invalid YAML"),
        ("aliases: [small]", "aliases: a: b", "2:11: invalid YAML: mapping values are not allowed here"),
        ("aliases: [small]", "version: 1", '2:1: invalid YAML: found duplicate key "version"'),
        ("aliases: [small]", "\taliases: [small]", "2:1: invalid YAML: found character"),
        ("aliases: [small]", "aliases: " + "[" * 600, "nested more than 64 levels deep"),
        ("aliases: [small]", "aliases: [*small]", "invalid YAML: found undefined alias"),
        ("aliases: [small]", "aliases: [\x01]", "invalid YAML"),
        ("aliases: [small]", "aliases: !!python/object:os.system x", "aliases: expected a string or a list of strings"),
    ],
)
def test_an_error_names_its_position_and_key(refused: Refused, old: str, new: str, message: str) -> None:
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
def test_unsupported_keys_are_refused(refused: Refused, old: str, new: str, key: str) -> None:
    error = refused(old, new)
    assert error.key == key
    assert "not supported in this version" in str(error)
    assert error.line > 0
    assert error.column > 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("location: in_cluster", "place: in_cluster", "8:5: targets.fast.place: this key was renamed: use `location`"),
        (
            "use: fast",
            "use: fast\n    keep: in_cluster",
            "22:5: routes[0].keep: this key was renamed: use `private: true`",
        ),
        (
            "buffer: full",
            "hold: whole",
            "25:33: routes[0].validate.hold: this key was renamed: use `buffer` (full, first_",
        ),
        (
            "buffer: full",
            "tell_fallback: true",
            "validate.tell_fallback: this key was renamed: use `send_error_to_fallback`",
        ),
        (
            "window_s: 60",
            "hold_down_s: 9",
            "22:24: routes[0].slo.hold_down_s: this key was renamed: use `base_ejection_s`",
        ),
        ("window_s: 60", "hold_down_max_s: 9", "slo.hold_down_max_s: this key was renamed: use `max_ejection_s`"),
        ("p95_ms: 9000", "p95_ms: 9, hold_down_s: 9", "targets.quality.slo.hold_down_s: this key was renamed"),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(refused: Refused, old: str, new: str, message: str) -> None:
    error = refused(old, new)
    assert message in str(error)
    assert error.line > 0


def test_a_target_or_header_may_have_the_name_of_a_retired_key(policy_with: Callable[..., Policy]) -> None:
    assert policy_with("when: {", "when: {header: {hold: a, place: b}, ").rules[0].route.when.further


CONFIDENT = "    min_confidence: 0.8\n    deadline_ms: 3000\n    validate: {schema: request, buffer: full}\n"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("buffer: full", "buffer: first_bytes", "buffer"),  # the confidence would arrive too late
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
def test_contradictory_validation_is_refused(refused: Refused, old: str, new: str, key: str) -> None:
    error = refused(old, new)
    assert error.key == f"routes[0].validate.{key}"
    assert error.line > 0


def test_an_unset_variable_without_default_is_located(refused: Refused) -> None:
    error = refused("model: diffusion", 'model: "${MODEL}"')
    assert str(error) == ("p.yaml:7:5: targets.fast.model: environment variable MODEL is not set and has no default")


def test_a_malformed_variable_is_refused(refused: Refused) -> None:
    assert "expected ${NAME} or ${NAME:-default}" in str(refused("model: diffusion", 'model: "${MODEL:=x}"'))


def test_a_merged_key_is_located_at_its_section(refused: Refused) -> None:
    base = "  base: &base {kind: openai, url: http://a, model: m, location: external, engine: vllm}\n"
    error = refused("  fast:\n    kind: worker\n", base + "  fast:\n    <<: *base\n    kind: worker\n")
    assert str(error).startswith("p.yaml:6:5: targets.fast.engine: unknown key")


def test_a_number_too_large_for_a_float_is_refused(refused: Refused) -> None:
    error = refused("p95_ms: 400", f"p95_ms: 0x{'f' * 400}")
    assert str(error).startswith("p.yaml:22:11: routes[0].slo.p95_ms: expected a number")


def test_nested_anchors_are_read_in_linear_time(refused: Refused) -> None:
    bomb = "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 60))  # 2^59 if walked
    error = refused("aliases: [small]\n", "a0: &a0 {x: z}\n" + bomb)
    assert "a0: unknown key" in str(error)


def test_a_variable_behind_an_alias_is_substituted_everywhere() -> None:
    text = (
        "version: 1\ntargets:\n"
        '  one: &one {kind: worker, url: "http://${HOST}", model: m, location: in_cluster}\n'
        "  two: *one\nroutes:\n  - {name: default, use: one}\n"
    )
    targets = parse(text, {"HOST": "h"}).targets
    assert [targets[name].url for name in ("one", "two")] == ["http://h", "http://h"]

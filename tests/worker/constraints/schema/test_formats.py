"""The grammars of formats, compared in both directions with jsonschema-rs, which checks formats in code of its own."""

import random
import re
from functools import cache

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.code_point_dfa import accepts, dfa_of_pattern
from diffusion_worker.constraints.automata.minimise import RangeDfa
from diffusion_worker.constraints.schema.formats import COMPACT, FORMATS

# what a format is made of, from the examples of its RFC and around them
PIECES = {
    "date": ["2024", "0001", "1900", "2000", "-", "02", "29", "30", "31", "06", "12", "13", "00", "T", " "],
    "time": ["23", "24", "00", ":", "59", "60", ".5", ".", ".1234567", "Z", "z", "+", "-", "01:30", "00:00", "9"],
    "date-time": [
        "2016-12-31",
        "2016-06-30",
        "2015-02-29",
        "T",
        "t",
        " ",
        "23:59:60",
        "12:00:00",
        ".25",
        "Z",
        "z",
        "+02:00",
    ],
    "duration": ["P", "T", "1Y", "2M", "3D", "4H", "5M", "6S", "1W", "0", ".5", "-"],
    "uuid": ["123e4567", "ABCDEF01", "-", "e89b", "12d3", "a456", "426614174000", "g"],
    "ipv4": ["0", "255", "256", "1", "01", "199", ".", "-"],
    "ipv6": ["::", ":", "1", "abcd", "F", "12345", "1.2.3.4", "256.1.1.1", "%eth0", "1:2:3", "4:5:6:7"],
    "email": ["a", "b.c", "..", ".", "@", "x.org", "[127.0.0.1]", "[IPv6:::1]", '"', '"a b"', "\\", "+", "-", "é", " "],
    "hostname": ["a", "A1", "-", ".", "_", "example", "org", "é", " "],
    "uri": [
        "http",
        "urn",
        ":",
        "//",
        "/",
        "a",
        "b@",
        "x.org",
        "[::1]",
        "[",
        ":80",
        "?",
        "#",
        "%41",
        "%",
        "'",
        "é",
        "\\",
        " ",
    ],
    "uri-template": [
        "a",
        "/",
        "{",
        "}",
        "{x}",
        "{?x,y}",
        "{+x:3}",
        "{&x*}",
        "{x:0}",
        ":1",
        ",",
        "%41",
        "%",
        "é",
        '"',
        " ",
        "^",
    ],
    "json-pointer": ["/", "a", "~0", "~1", "~2", "~", "é", "#", '"'],
    "relative-json-pointer": ["0", "1", "01", "/", "a", "~1", "~", "#", "-"],
}
for _name in ("uri-reference", "iri", "iri-reference"):
    PIECES[_name] = [*PIECES["uri"], "\ue000", "\U00010000"]
# what the grammars leave out, see the docstring of `formats`
LEFT_OUT = {
    "date": r"0000-.*",
    "date-time": r"0000-.*|.*:60.*",
    "time": r".*:60.*",
}


@cache
def _language(name: str) -> RangeDfa:
    return dfa_of_pattern(FORMATS[name], whole=True)


@cache
def _checker(name: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True)


def _is_stricter(name: str, text: str) -> bool:
    """Whether the checker knows a limit that the grammar does not: lengths, Punycode, and no escaped spaces."""
    unusual = {"email": r"(^|[@.])..--|\\ ", "hostname": r"(^|\.)..--"}
    return len(text) > 60 or re.search(unusual.get(name, r"(?!)"), text) is not None


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_grammar_and_an_independent_checker_agree(name: str, data: st.DataObject) -> None:
    """On texts put together from pieces of the format, valid or not."""
    for text in map("".join, data.draw(st.lists(st.lists(st.sampled_from(PIECES[name]), max_size=8), min_size=8))):
        if not _is_stricter(name, text) and not re.fullmatch(LEFT_OUT.get(name, r"(?!)"), text):
            assert accepts(_language(name), text) == _checker(name).is_valid(text), text


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_random_members_are_valid(name: str, seed: int) -> None:
    """Also those of the compact grammar, which is part of the whole one."""
    for grammar in (FORMATS[name], COMPACT[name]):
        text = _member(dfa_of_pattern(grammar, whole=True), random.Random(seed))
        assert accepts(_language(name), text), text
        assert _is_stricter(name, text) or _checker(name).is_valid(text), text


def _member(language: RangeDfa, chance: random.Random) -> str:
    """A random text of the language, which ends at the first chance after 20 characters or is given up."""
    for _ in range(50):
        state, text = language.start, ""
        while len(text) < 60 and not (language.accepting[state] and (len(text) > 20 or chance.random() < 0.2)):
            first, last, state = chance.choice(language.rows[state])
            text += chr(chance.choice((first, last, chance.randint(first, last))))
            if not language.rows[state]:
                break
        if language.accepting[state]:
            return text
    return _shortest(language)


def _shortest(language: RangeDfa) -> str:
    found = {language.start: ""}
    for state in (todo := [language.start]):
        if language.accepting[state]:
            return found[state]
        for first, _, after in language.rows[state]:
            if after not in found:
                found[after] = found[state] + chr(first)
                todo.append(after)
    raise AssertionError("an empty language")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "date",
            ["2024-02-29", "1999-12-31", "0001-01-01"],
            ["2023-02-29", "1900-02-29", "2024-04-31", "0000-02-29", "2024-1-1"],
        ),
        ("time", ["23:59:59Z", "00:00:00.5+01:30"], ["24:00:00Z", "12:00:00", "12:60:00Z"]),
        ("date-time", ["2024-02-29T12:00:00Z"], ["2024-02-30T12:00:00Z", "2024-02-29 12:00:00Z"]),
        ("duration", ["P1Y2M3DT4H5M6S", "PT1M", "P2W"], ["P", "PT", "1D", "P1S"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
        ("ipv4", ["0.0.0.0", "255.249.199.9"], ["256.1.1.1", "1.1.1", "01.1.1.1"]),
        (
            "ipv6",
            ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8", "1:2:3::7:8"],
            ["1:2:3", ":::", "1::2::3", "1:2:3:4:5:6:7:8:9"],
        ),
        ("email", ["a.b+c@x-y.org"], ["a@", "@b.c", "a..b@c.d"]),
        ("hostname", ["a", "x-1.example.org"], ["-a.b", "a..b", "a_b"]),
        ("uri", ["https://a.b/c?d#e", "urn:isbn:1", "mailto:a@b.c"], ["a.b/c", "//a", "http://a b"]),
        ("uri-reference", ["a/b", "/x?y", "#z", "", "https://a.b"], ["a b", "%zz"]),
        ("json-pointer", ["", "/a/~0~1", "/"], ["a", "/~2"]),
        ("time", ["23:59:60Z", "23:59:60.5+00:00", "00:00:00.1234567890z"], ["22:59:60Z", "23:58:60Z", "00:00:00."]),
        (
            "date-time",
            ["2016-12-31T23:59:60Z", "1992-06-30t23:59:60z"],
            ["2016-12-30T23:59:60Z", "0000-01-01T00:00:00Z"],
        ),
        (
            "uri",
            ["http://[::ffff:1.2.3.4]:80/", "http://[v1.a:b]", "file:///a", "a:", "http://%41"],
            ["http://[::1", "a://b:c"],
        ),
        ("email", ['"a@\\" b"@x.org', "a@[IPv6:1::]", "a@[1.2.3.4]"], ['"a""@b', "a@[1.2.3]", "a b@c", "a@b."]),
        (
            "ipv6",
            ["::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7::"],
            ["1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::1%a"],
        ),
        ("iri", ["http://é/日本?\ue000#é"], ["http://\ue000/", "http://a#\ue000"]),
        ("uri-template", ["/a{/b*}{?c,d:10}", "{+a.b}"], ["{a", "{}", "{=a}", "{a:10000}", "{a b}"]),
        ("relative-json-pointer", ["0", "12/a~1b", "1#"], ["", "01/a", "0#/a", "/a"]),
    ],
)
def test_examples_of_the_documents_that_define_a_format(name: str, good: list[str], bad: list[str]) -> None:
    """Leap seconds, hosts in brackets, quoted local parts, mixed notation of addresses and others that are rare."""
    assert [text for text in good if not accepts(_language(name), text)] == []
    assert [text for text in bad if accepts(_language(name), text)] == []

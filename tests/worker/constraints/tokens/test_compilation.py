"""The token automaton accepts exactly the tokenizations of the language, followed by an end token."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.automaton import freeze
from diffusion_worker.constraints.automata.native import NATIVE
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.tokens import compilation
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, to_bytes
from diffusion_worker.constraints.tokens.token_trie import build_token_trie
from tests.worker.constraints.by_enumeration import END, PADDING, SECOND_END, Case, cases

ANY = [(byte, byte, 0) for byte in b"abc"]


def compiled_tokens(case: Case, prefixes: tuple[tuple[int, ...], ...] = ((),)) -> TokenAutomaton | None:
    return compile_tokens(case.language, case.vocabulary, prefixes)


@given(cases())
def test_a_token_is_allowed_exactly_if_its_bytes_are(case: Case) -> None:
    """For every short sequence: the walk over tokens lives exactly if the walk over bytes does and can be closed."""
    automaton = compiled_tokens(case)
    if automaton is None:
        assert case.distance(case.language.start) == np.inf
        return
    for ids in itertools.chain.from_iterable(
        itertools.product(range(len(case.tokens)), repeat=length) for length in (1, 2, 3)
    ):
        if {END, SECOND_END} & set(ids[:-1]):
            continue
        text = ids[:-1] if ids[-1] in (END, SECOND_END) else ids
        state = case.language.walk(case.language.start, b"".join(case.tokens[token] for token in text))
        is_text = all(case.tokens[token] for token in text)
        found = automaton.walk(automaton.start, ids)
        if text != ids:
            assert (found == automaton.done) == (is_text and state >= 0 and bool(case.language.accepting[state]))
        else:
            assert (found >= 0) == (is_text and state >= 0 and case.distance(state) < np.inf)
            if found >= 0:
                assert automaton.distance[found] == case.distance(state)


@given(cases())
def test_only_padding_follows_the_end(case: Case) -> None:
    """After the end, every token keeps the state and has score 0."""
    automaton = compiled_tokens(case)
    if automaton is not None:
        assert all(automaton.after(automaton.done, token) == automaton.done for token in range(len(case.tokens)))
        assert automaton.label[automaton.first_edge[automaton.done]] == automaton.token_sets.sets


@given(cases())
def test_token_sets_are_unions_of_equivalence_classes(case: Case) -> None:
    """Tokens share an equivalence class exactly if no edge distinguishes them."""
    automaton = compiled_tokens(case)
    if automaton is None:
        return
    classes = automaton.token_sets
    assert sorted(classes.order) == list(range(len(case.tokens)))
    sizes = np.diff(classes.class_start)
    assert (np.diff(sizes) >= 0).all()
    steps = {
        token: tuple(automaton.after(state, token) for state in range(automaton.states - 1))
        for token in range(len(case.tokens))
    }
    for index, leaf in enumerate(classes.leaf_of):
        assert classes.class_at[leaf] == index
    for first, second in itertools.combinations(steps, 2):
        assert (classes.class_of[first] == classes.class_of[second]) == (steps[first] == steps[second])


def test_a_language_that_no_token_spells_is_none() -> None:
    """The vocabulary lacks a byte."""
    language = freeze([[(ord("x"), ord("x"), 1)], []], [False, True], 0)
    assert (
        compile_tokens(language, Case(language, (b"", b"", b"", b"a"), np.zeros((1, 4), np.float32)).vocabulary) is None
    )


@given(cases(), st.booleans())
def test_a_prefix_precedes_the_text_and_nothing_else(case: Case, is_optional: bool) -> None:
    """One of several, or none at all if that is among them."""
    prefixes = ((PADDING, 3), (PADDING, 4, PADDING), *((),) * is_optional)
    plain, headed = compiled_tokens(case), compiled_tokens(case, prefixes)
    assert (plain is None) == (headed is None)
    if plain is None or headed is None:
        return
    behind = headed.walk(headed.start, (PADDING, 3))
    assert behind == headed.walk(headed.start, (PADDING, 4, PADDING)) >= 0
    assert headed.distance[headed.start] == plain.distance[plain.start] + (0 if is_optional else 2)
    for ids in itertools.product(range(len(case.tokens)), repeat=2):
        expected = plain.walk(plain.start, ids)
        assert (headed.walk(behind, ids) >= 0) == (expected >= 0)
        if ids[0] != PADDING:
            assert (headed.walk(headed.start, ids) >= 0) == (is_optional and expected >= 0)


printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=15)


@given(st.integers(0, 20), st.lists(printable, min_size=1, max_size=30), st.sampled_from([b'"', b'"}', b'":"']))
def test_counting_states_count_the_bytes_of_tokens(limit: int, spelled: list[str], closing: bytes) -> None:
    """A string of bounded length: tokens of every length from every state, longer than any shortcut too."""
    rows: list[list[tuple[int, int, int]]] = []
    for count in range(limit + 1):
        backward = [(0x20, 0x21, count + 1), (0x23, 0x7E, count + 1)] if count < limit else []
        rows.append(sorted([*backward, (0x22, 0x22, limit + 1)]))
    last = [[(byte, byte, limit + 2 + at)] for at, byte in enumerate(closing[1:])]
    language = freeze([*rows, *last, []], [*[False] * (limit + len(closing)), True], 0)
    glued = [text + closing.decode() for text in spelled[:10]]
    tokens = (b"", b"", b"", b"a", *(bytes([byte]) for byte in closing), *(t.encode() for t in [*spelled, *glued]))
    automaton = compiled_tokens(Case(language, tokens, np.zeros((1, len(tokens)), np.float32)))
    assert automaton is not None
    for count in range(limit + 1):
        state = automaton.walk(automaton.start, (3,) * count)
        for token, spelling in enumerate(tokens[3:], start=3):
            assert (automaton.after(state, token) >= 0) == (language.walk(count, spelling) >= 0)
            assert _same_future(automaton, automaton.after(state, token), language.walk(count, spelling), limit)


def _same_future(automaton: TokenAutomaton, state: int, byte_state: int, limit: int) -> bool:
    """Whether this number of further bytes may follow."""
    if state < 0 or byte_state > limit:
        return True
    remaining = limit - byte_state
    return automaton.walk(state, (3,) * remaining) >= 0 > automaton.walk(state, (3,) * (remaining + 1))


def test_a_prefix_that_could_be_text_is_refused() -> None:
    """With an optional prefix, the first token must decide between prefix and text."""
    language = freeze([ANY], [True], 0)
    case = Case(language, (b"", b"", b"", b"a"), np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="control token"):
        compiled_tokens(case, ((), (3,)))


@pytest.mark.parametrize("text", [b'{"a":"x"}', b'{"a":""}', '{"a":"\u00e9\U0001f600"}'.encode(), b'{"a":"b"}'])
def test_tokens_that_span_boundaries_are_exact(text: bytes) -> None:
    """Quotes glued to colons and commas, leading spaces, single bytes of long characters: every way to cut a text into
    tokens is allowed, and none that cuts it otherwise."""
    tokens = (b"", b"", b"", b'":"', b'"}', b'{"', b'"a', b" x", b"x", *(bytes([byte]) for byte in sorted(set(text))))
    rows = [[(byte, byte, at + 1)] for at, byte in enumerate(text)]
    language = freeze([*rows, []], [*[False] * len(text), True], 0)
    automaton = compiled_tokens(Case(language, tokens, np.zeros((1, len(tokens)), np.float32)))
    assert automaton is not None
    for ids in _tokenizations(text, tokens):
        assert automaton.walk(automaton.start, (*ids, END)) == automaton.done
        assert automaton.walk(automaton.start, (*ids[:-1], END)) == -1
    assert automaton.distance[automaton.start] == min(len(ids) for ids in _tokenizations(text, tokens)) + 1


def _tokenizations(text: bytes, tokens: tuple[bytes, ...]) -> list[tuple[int, ...]]:
    if not text:
        return [()]
    fitting = [token for token, spelling in enumerate(tokens) if spelling and text.startswith(spelling)]
    return [(token, *rest) for token in fitting for rest in _tokenizations(text[len(tokens[token]) :], tokens)]


@pytest.mark.skipif(NATIVE is None, reason="diffusion_worker.constraints.automata._native is not built")
@given(cases())
def test_the_native_walk_finds_the_same_transitions(case: Case) -> None:
    """The compiled automata are equal byte for byte."""
    with pytest.MonkeyPatch.context() as patch:
        found = compiled_tokens(case)
        patch.setattr(compilation, "NATIVE", None)
        expected = compiled_tokens(case)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert to_bytes(found) == to_bytes(expected)


TEXT = st.text(st.sampled_from('ab"\\\n ,:{}[]éßσ漢字\u0800\ud7ff\ue000🦊\U00010000\U0010ffff'), min_size=1, max_size=5)
STRINGS = compile_schema(
    {"properties": {"aé": {"maxLength": 2}, "b": {"enum": ["漢a"]}, "c": {"type": "string"}}, "type": "object"}
    | {"additionalProperties": {"type": "string"}}
).automaton
PIECES = st.one_of(  # of characters too, also of bytes that no text has
    TEXT.map(str.encode),
    st.tuples(TEXT, st.integers(0, 4), st.integers(0, 4)).map(
        lambda t: t[0].encode()[t[1] : len(t[0].encode()) - t[2]]
    ),
    st.binary(min_size=1, max_size=4),
)


@pytest.mark.skipif(NATIVE is None, reason="diffusion_worker.constraints.automata._native is not built")
@given(st.lists(PIECES.filter(bool), max_size=40, unique=True))
def test_the_native_walk_skips_text_of_any_characters(pieces: list[bytes]) -> None:
    """Tokens of whole characters, of parts of them and of broken ones, inside strings and across their ends."""
    tokens = [b"", *dict.fromkeys([*(bytes([byte]) for byte in range(0xF5)), *pieces])]
    trie = build_token_trie(tokens, (0,), 0)
    with pytest.MonkeyPatch.context() as patch:
        found = compile_tokens(STRINGS, trie)
        patch.setattr(compilation, "NATIVE", None)
        expected = compile_tokens(STRINGS, trie)
    assert found is not None
    assert expected is not None
    assert to_bytes(found) == to_bytes(expected)

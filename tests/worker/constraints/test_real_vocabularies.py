"""Real vocabularies: tokens that span JSON boundaries, hold parts of characters or leading spaces."""

import functools
import json

import numpy as np
import pytest

from benchmarks.constraints_steps import Noise, random_answer
from benchmarks.vocabularies import VOCABULARIES, Words
from diffusion_worker.constraints.automata.automaton import ByteAutomaton
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.token_trie import TokenTrie

pytestmark = pytest.mark.slow
INSTALLED = ("shipped", "smollm2", "tekken")  # by `make setup`
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["café", "日本", "😀 smile"]},
        "size": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "kind", "size", "tags"],
    "additionalProperties": False,
}
TEXTS = (
    '{"name":"a","kind":"café","size":1,"tags":[]}',
    '{"name":"","kind":"日本","size":null,"tags":["x","y"]}',
    '{\n  "name": " two  spaces ",\n  "kind": "😀 smile",\n  "size": -70,\n  "tags": ["\\"", "\\u00e9", "naïve 𝄞"]\n}',
)


@functools.cache
def vocabulary_bytes_of(name: str) -> Words:
    return VOCABULARIES[name]()


@functools.cache
def token_trie_of(name: str) -> TokenTrie:
    return vocabulary_bytes_of(name).read()


@functools.cache
def language() -> ByteAutomaton:
    return compile_schema(SCHEMA).automaton


@functools.cache
def compiled_tokens(name: str) -> TokenAutomaton:
    automaton = compile_tokens(language(), token_trie_of(name))
    assert automaton is not None
    return automaton


def tokenization(words: Words, text: bytes, seed: int) -> list[int]:
    """A random tokenization: at every position one of the tokens that match."""
    random, by_text = np.random.default_rng(seed), by_bytes(words)
    ids, at = list[int](), 0
    while at < len(text):
        fitting = [by_text[piece] for end in range(at + 1, len(text) + 1) if (piece := text[at:end]) in by_text]
        ids.append(int(random.choice(fitting)))
        at += len(words.tokens[ids[-1]])
    return ids


@functools.cache
def by_bytes(words: Words) -> dict[bytes, int]:
    return {spelling: token for token, spelling in enumerate(words.tokens) if spelling}


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("text", TEXTS)
def test_every_tokenization_of_a_valid_document_is_allowed(name: str, text: str) -> None:
    """Fifty tokenizations each; the end token is allowed after the whole text, not before."""
    words, automaton = vocabulary_bytes_of(name), compiled_tokens(name)
    assert language().accepts(text.encode())
    for seed in range(50):
        ids = tokenization(words, text.encode(), seed)
        assert automaton.walk(automaton.start, [*ids, words.end_id]) == automaton.done
        assert automaton.walk(automaton.start, [*ids[:-1], words.end_id]) == -1


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize(
    "before", ["", "{", '{"name":"', '{"name":"a', '{"name":"a","kind":"', '{"name":"\\', '{"name":"é']
)
def test_at_a_token_boundary_a_token_is_allowed_exactly_if_its_bytes_are(name: str, before: str) -> None:
    """The whole vocabulary, token by token, against the walk over its bytes: `":"`, `",`, halves of characters."""
    words, automaton = vocabulary_bytes_of(name), compiled_tokens(name)
    byte_state = language().walk(language().start, before.encode())
    state = automaton.walk(automaton.start, tokenization(words, before.encode(), 0))
    wrong = [
        token
        for token, spelling in enumerate(words.tokens)
        if token != words.end_id
        and (automaton.after(state, token) >= 0) != (bool(spelling) and language().walk(byte_state, spelling) >= 0)
    ]
    assert not wrong, [words.tokens[token] for token in wrong[:20]]


@pytest.mark.parametrize("name", ["smollm2", "tekken"])
def test_vocabularies_have_tokens_that_span_boundaries_and_split_characters(name: str) -> None:
    """The cases of the other tests do occur in these vocabularies."""
    spelled = set(vocabulary_bytes_of(name).tokens)
    assert {b'":', b'",', b'{"', b'":"', b" a"} & spelled >= {b'":', b'{"', b" a"}
    assert any(_is_part_of_a_character(spelling) for spelling in spelled)


def _is_part_of_a_character(spelling: bytes) -> bool:
    try:
        spelling.decode()
    except UnicodeDecodeError:
        return True
    return False


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("is_sampled", [False, True])
def test_random_logits_give_valid_documents(name: str, is_sampled: bool) -> None:
    """From the shortest possible answer to one over several canvases."""
    words, automaton = vocabulary_bytes_of(name), compiled_tokens(name)
    noise = Noise(canvas=64, vocab=len(words.tokens), seed=7)
    shortest = int(automaton.distance[automaton.start])
    for budget in (shortest, shortest + 1, shortest + 30, shortest + 200):
        document = json.loads(words.text(random_answer(automaton, noise, budget, is_sampled=is_sampled)))
        assert list(document) == ["name", "kind", "size", "tags"]
        assert document["kind"] in SCHEMA["properties"]["kind"]["enum"]

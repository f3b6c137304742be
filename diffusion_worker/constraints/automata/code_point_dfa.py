"""DFAs over code points: of regular expressions and finite languages, with length bounds, and their Boolean
combinations.

Built by the product construction and minimised. `json_strings` encodes them as bytes.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from diffusion_worker.constraints.automata.automaton import DEAD, Edge
from diffusion_worker.constraints.automata.glushkov import MAX_STATES, determinise
from diffusion_worker.constraints.automata.graph import TooLarge
from diffusion_worker.constraints.automata.minimise import EMPTY, RangeDfa, minimise
from diffusion_worker.constraints.automata.ranges import subtract
from diffusion_worker.constraints.automata.regex import (
    BEGIN,
    END,
    LAST,
    SCALARS,
    Alt,
    Chars,
    Look,
    Repeat,
    Seq,
    Tree,
    parse,
    parts_of,
    relax,
)

_FILLER: Final = Repeat(Chars((*SCALARS, (BEGIN, END))), 0, None)

ANY_TEXT: Final = RangeDfa(rows=(tuple((first, last, 0) for first, last in SCALARS),), accepting=(True,), start=0)
EMPTY_TEXT: Final = RangeDfa(rows=((),), accepting=(True,), start=0)


@lru_cache(maxsize=512)
def dfa_of_pattern(pattern: str, *, wide: bool = False, whole: bool = False, repeats: int | None = None) -> RangeDfa:
    """The texts that contain a match of `pattern` (`whole`: that it matches entirely). Repetitions above `repeats` are
    treated as unbounded. Raises NotRegular."""
    tree = parse(pattern, wide=wide)
    tree = tree if repeats is None else relax(tree, repeats)
    return dfa_of_tree(tree) if whole else _dfa_of_search(tree)


def dfa_of_tree(tree: Tree) -> RangeDfa:
    """The texts that the tree matches entirely. Raises NotRegular, or TooLarge."""
    return _without_boundaries(Seq((Repeat(Chars(((BEGIN, BEGIN),)), 0, 1), tree, Repeat(Chars(((END, END),)), 0, 1))))


def shared_length(left: str, right: str) -> int:
    """The length of the longest prefix that both texts have."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))


@lru_cache(maxsize=256)
def dfa_of_words(texts: frozenset[str]) -> RangeDfa:
    """The finite language of these texts."""
    rows: list[list[Edge]] = [[]]
    accepting = [False]
    path, previous = [0], ""  # the states of the previous text
    for word in sorted(texts):
        shared = shared_length(previous, word)
        del path[shared + 1 :]
        for char in word[shared:]:
            rows[path[-1]].append((ord(char), ord(char), len(rows)))
            path.append(len(rows))
            rows.append([])
            accepting.append(False)
        accepting[path[-1]] = True
        previous = word
    return minimise(rows, accepting, 0)


def _dfa_of_search(tree: Tree) -> RangeDfa:
    """Look-ahead is supported at the start of an anchored expression, where it is an intersection."""
    if isinstance(tree, Alt) and any(_lookaheads(part) for part in tree.parts):
        found = EMPTY
        for part in tree.parts:
            found = union(found, _dfa_of_search(part))
        return found
    ahead, rest = _lookaheads(tree), tree
    if ahead:
        begin = Chars(((BEGIN, BEGIN),))
        rest = Seq((begin, *parts_of(tree)[1 + len(ahead) :]))
    found = _without_boundaries(Seq((_FILLER, rest, _FILLER)))
    for look in ahead:
        seen = _without_boundaries(Seq((begin, look.part, _FILLER)))
        found = intersection(found, seen) if look.wanted else difference(found, seen)
    return found


def _lookaheads(tree: Tree) -> list[Look]:
    parts = parts_of(tree)
    if not parts or parts[0] != Chars(((BEGIN, BEGIN),)):
        return []
    looks: list[Look] = []
    for part in parts[1:]:
        if not isinstance(part, Look):
            break
        looks.append(part)
    return looks


def _without_boundaries(tree: Tree) -> RangeDfa:
    """The automaton of a tree over texts with boundary markers, without the markers. A text may have any number of them
    at both ends, because `^` and `$` match without consuming: `(,|$)+$` matches the end of a text twice. At the only
    place of an empty text they match in any order."""
    marked, accepting = determinise(tree)
    closing = [any(accepting[end] for end in _repeated(marked, state, (END,))) for state in range(len(marked))]
    bare = [[(a, min(b, LAST), t) for a, b, t in row if a <= LAST] for row in marked]
    found = EMPTY
    for begun in _repeated(marked, 0, (BEGIN,)):
        found = union(found, minimise(bare, closing, begun))
    if any(accepting[state] for state in _repeated(marked, 0, (BEGIN, END))):
        found = union(found, EMPTY_TEXT)
    return found


def _repeated(rows: Sequence[Sequence[Edge]], start: int, labels: Sequence[int]) -> list[int]:
    """The states after one of the labels, after two, and so on."""
    reached, todo = dict[int, None](), [start]
    while todo:
        state = todo.pop()
        fresh = [after for label in labels if (after := _after(rows[state], label)) != DEAD and after not in reached]
        reached.update(dict.fromkeys(fresh))
        todo += fresh
    return list(reached)


def _after(row: Sequence[Edge], label: int) -> int:
    return next((target for first, last, target in row if first <= label <= last), DEAD)


def intersection(left: RangeDfa, right: RangeDfa) -> RangeDfa:
    """The intersection of the languages."""
    return right if left is ANY_TEXT else left if right is ANY_TEXT else _product(left, right, only_left=False)


def difference(left: RangeDfa, right: RangeDfa) -> RangeDfa:
    """The difference of the languages."""
    return left if not right.rows else _product(left, right, only_left=True)


def union(left: RangeDfa, right: RangeDfa) -> RangeDfa:
    """The union of the languages."""
    if not left.rows or not right.rows:
        return left if left.rows else right
    return difference(ANY_TEXT, intersection(difference(ANY_TEXT, left), difference(ANY_TEXT, right)))


def _product(left: RangeDfa, right: RangeDfa, *, only_left: bool) -> RangeDfa:
    """The product construction. `only_left`: accept where `left` does and `right` does not, otherwise where both do."""
    if not left.rows or not right.rows:
        return EMPTY
    pairs = [(left.start, right.start)]
    numbers = {pairs[0]: 0}
    rows: list[list[Edge]] = []
    for left_state, right_state in pairs:
        edges = _product_edges(left.rows[left_state], () if right_state == DEAD else right.rows[right_state], only_left)
        row: list[Edge] = []
        for first, last, pair in edges:
            number = numbers.setdefault(pair, len(pairs))
            if number == len(pairs):
                pairs.append(pair)
            row.append((first, last, number))
        rows.append(row)
        if len(pairs) > 2 * MAX_STATES:
            raise TooLarge("strings with too many states")
    accepting = [
        left.accepting[left_state] and (right_state != DEAD and right.accepting[right_state]) != only_left
        for left_state, right_state in pairs
    ]
    return minimise(rows, accepting, 0)


def _product_edges(
    left: Sequence[Edge], right: Sequence[Edge], only_left: bool
) -> list[tuple[int, int, tuple[int, int]]]:
    edges = [
        (max(a, c), min(b, d), (left_target, right_target))
        for a, b, left_target in left
        for c, d, right_target in right
        if a <= d and c <= b
    ]
    if only_left:
        taken = tuple((first, last) for first, last, _ in right)
        edges += [(a, b, (target, DEAD)) for first, last, target in left for a, b in subtract(((first, last),), taken)]
    return edges


def with_length(language: RangeDfa, low: int, high: int | None) -> RangeDfa:
    """The words of the language with `low` to `high` code points."""
    if not language.rows or (low == 0 and high is None):
        return language
    top = low if high is None else high + 1
    last = language.accepting
    states = len(language.rows)
    if states * (top + 1) > 16 * MAX_STATES:
        raise TooLarge("a length bound with too many states")
    rows: list[list[Edge]] = []
    for count in range(top + 1):
        ahead = min(count + 1, top)
        dead = high is not None and ahead > high
        rows.extend([] if dead else [(a, b, ahead * states + t) for a, b, t in row] for row in language.rows)
    accepting = [
        last[state] and low <= count and (high is None or count <= high)
        for count in range(top + 1)
        for state in range(states)
    ]
    return minimise(rows, accepting, language.start)


def length_range(language: RangeDfa) -> tuple[int, int | None]:
    """The minimum and maximum length of a word in code points; None: unbounded."""
    depth: dict[int, int] = {}
    shortest, frontier, steps = -1, {language.start}, 0
    seen: set[int] = set()
    while frontier and shortest < 0:
        if any(language.accepting[state] for state in frontier):
            shortest = steps
        seen |= frontier
        frontier = {edge[2] for state in frontier for edge in language.rows[state]} - seen
        steps += 1
    return shortest, _longest(language, language.start, depth, set())


def _longest(language: RangeDfa, state: int, depth: dict[int, int], path: set[int]) -> int | None:
    """The longest path to acceptance. Every state of a trimmed automaton can accept, so a cycle means unbounded."""
    order: list[tuple[int, bool]] = [(state, False)]
    while order:
        at, done = order.pop()
        if done:
            path.discard(at)
            depth[at] = max((1 + depth[edge[2]] for edge in language.rows[at]), default=0)
        elif at not in depth:
            if at in path:
                return None
            path.add(at)
            order.append((at, True))
            for edge in language.rows[at]:
                if edge[2] in path:
                    return None
                order.append((edge[2], False))
    return depth[state]


def accepts(language: RangeDfa, text: str) -> bool:
    """Whether a text is in the language."""
    state = language.start
    for char in text:
        if state == DEAD or not language.rows:
            return False
        state = _after(language.rows[state], ord(char))
    return state != DEAD and bool(language.rows) and language.accepting[state]

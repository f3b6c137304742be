"""Languages over code points as minimal automata: of a regular expression, of words, with bounded length, and what two
have in common or one has and the other lacks.

Knows code points; how a string is spelled in JSON is the business of `spelling`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from diffusion_worker.constraints.automata.automaton import DEAD, Edge
from diffusion_worker.constraints.automata.glushkov import MAX_STATES, determinised
from diffusion_worker.constraints.automata.graph import TooLarge
from diffusion_worker.constraints.automata.minimise import EMPTY, Rows, minimise
from diffusion_worker.constraints.automata.ranges import without
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
    relaxed,
)

_FILLER: Final = Repeat(Chars((*SCALARS, (BEGIN, END))), 0, None)

ANY_TEXT: Final = Rows(rows=(tuple((first, last, 0) for first, last in SCALARS),), accepting=(True,), start=0)
EMPTY_TEXT: Final = Rows(rows=((),), accepting=(True,), start=0)


@lru_cache(maxsize=512)
def matching(pattern: str, *, wide: bool = False, whole: bool = False, repeats: int | None = None) -> Rows:
    """The texts in which `pattern` is found (`whole`: which it matches from end to end); repetitions of more than
    `repeats` times are taken to have no upper bound. Raises NotRegular."""
    tree = parse(pattern, wide=wide)
    tree = tree if repeats is None else relaxed(tree, repeats)
    return of_tree(tree) if whole else _searched(tree)


def of_tree(tree: Tree) -> Rows:
    """The texts that the tree matches from end to end. Raises NotRegular, or TooLarge."""
    return _bare(Seq((Repeat(Chars(((BEGIN, BEGIN),)), 0, 1), tree, Repeat(Chars(((END, END),)), 0, 1))))


@lru_cache(maxsize=256)
def words(members: frozenset[str]) -> Rows:
    """Exactly these texts."""
    prefixes: dict[str, int] = {"": 0}
    rows: list[list[Edge]] = [[]]
    for word in sorted(members):
        for end in range(1, len(word) + 1):
            if word[:end] not in prefixes:
                prefixes[word[:end]] = len(rows)
                rows[prefixes[word[: end - 1]]].append((ord(word[end - 1]), ord(word[end - 1]), len(rows)))
                rows.append([])
    accepting = [False] * len(rows)
    for word in members:
        accepting[prefixes[word]] = True
    return minimise(rows, accepting, 0)


def _searched(tree: Tree) -> Rows:
    """Look-ahead is understood at the start of an anchored expression, where it is an intersection."""
    if isinstance(tree, Alt) and any(_looks(part) for part in tree.parts):
        found = EMPTY
        for part in tree.parts:
            found = either(found, _searched(part))
        return found
    ahead, rest = _looks(tree), tree
    if ahead:
        begin = Chars(((BEGIN, BEGIN),))
        rest = Seq((begin, *parts_of(tree)[1 + len(ahead) :]))
    found = _bare(Seq((_FILLER, rest, _FILLER)))
    for look in ahead:
        seen = _bare(Seq((begin, look.part, _FILLER)))
        found = both(found, seen) if look.wanted else minus(found, seen)
    return found


def _looks(tree: Tree) -> list[Look]:
    parts = parts_of(tree)
    if not parts or parts[0] != Chars(((BEGIN, BEGIN),)):
        return []
    looks: list[Look] = []
    for part in parts[1:]:
        if not isinstance(part, Look):
            break
        looks.append(part)
    return looks


def _bare(tree: Tree) -> Rows:
    """The automaton of a tree over marked texts, without the marks around them."""
    marked, accepting = determinised(tree)
    ends = [_after(row, END) for row in marked]
    closing = [end != DEAD and accepting[end] for end in ends]
    bare = [[(a, min(b, LAST), t) for a, b, t in row if a <= LAST] for row in marked]
    begun = _after(marked[0], BEGIN)
    return EMPTY if begun == DEAD else minimise(bare, closing, begun)


def _after(row: Sequence[Edge], label: int) -> int:
    return next((target for first, last, target in row if first <= label <= last), DEAD)


def both(ours: Rows, theirs: Rows) -> Rows:
    """Texts of both languages."""
    return theirs if ours is ANY_TEXT else ours if theirs is ANY_TEXT else _product(ours, theirs, keep_alone=False)


def minus(ours: Rows, theirs: Rows) -> Rows:
    """Texts of the one language that are not in the other."""
    return ours if not theirs.rows else _product(ours, theirs, keep_alone=True)


def either(ours: Rows, theirs: Rows) -> Rows:
    """Texts of any of the two languages."""
    if not ours.rows or not theirs.rows:
        return ours if ours.rows else theirs
    return minus(ANY_TEXT, both(minus(ANY_TEXT, ours), minus(ANY_TEXT, theirs)))


def _product(ours: Rows, theirs: Rows, *, keep_alone: bool) -> Rows:
    """Both automata at once. `keep_alone`: accept where ours does and theirs does not, otherwise where both do."""
    if not ours.rows or not theirs.rows:
        return EMPTY
    pairs = [(ours.start, theirs.start)]
    numbers = {pairs[0]: 0}
    rows: list[list[Edge]] = []
    for left, right in pairs:
        edges = _steps(ours.rows[left], () if right == DEAD else theirs.rows[right], keep_alone)
        row: list[Edge] = []
        for first, last, pair in edges:
            number = numbers.setdefault(pair, len(pairs))
            if number == len(pairs):
                pairs.append(pair)
            row.append((first, last, number))
        rows.append(row)
        if len(pairs) > 2 * MAX_STATES:
            raise TooLarge("strings of too many states")
    accepting = [
        ours.accepting[left] and (right != DEAD and theirs.accepting[right]) != keep_alone for left, right in pairs
    ]
    return minimise(rows, accepting, 0)


def _steps(ours: Sequence[Edge], theirs: Sequence[Edge], keep_alone: bool) -> list[tuple[int, int, tuple[int, int]]]:
    steps = [
        (max(a, c), min(b, d), (ours_to, theirs_to))
        for a, b, ours_to in ours
        for c, d, theirs_to in theirs
        if a <= d and c <= b
    ]
    if keep_alone:
        taken = tuple((first, last) for first, last, _ in theirs)
        steps += [(a, b, (target, DEAD)) for first, last, target in ours for a, b in without(((first, last),), taken)]
    return steps


def bounded(language: Rows, low: int, high: int | None) -> Rows:
    """Texts of the language with `low` to `high` code points."""
    if not language.rows or (low == 0 and high is None):
        return language
    top = low if high is None else high + 1
    last = language.accepting
    states = len(language.rows)
    if states * (top + 1) > 16 * MAX_STATES:
        raise TooLarge("a length of too many states")
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


def extent(language: Rows) -> tuple[int, int | None]:
    """The fewest and the most code points of a member; None: there is no longest."""
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


def _longest(language: Rows, state: int, depth: dict[int, int], path: set[int]) -> int | None:
    """Longest path to acceptance; every state of a trimmed automaton has one, so a cycle means there is none."""
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


def member(language: Rows, text: str) -> bool:
    """Whether a text is in the language."""
    state = language.start
    for char in text:
        if state == DEAD or not language.rows:
            return False
        state = _after(language.rows[state], ord(char))
    return state != DEAD and bool(language.rows) and language.accepting[state]

"""From a JSON Schema to automaton states: each value is built backwards from the state that follows it.

Texts are accepted in normal form: declared members in declared order, then undeclared ones in a loop; strings, numbers
and white space as `json_strings`, `numbers` and `json_syntax` write them; within the limits of `size_limits`. Every
accepted text satisfies the schema except for the keywords in `findings.unchecked`; all values within the limits are
accepted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.code_point_dfa import accepts, dfa_of_words
from diffusion_worker.constraints.automata.graph import Block, Graph, TooLarge
from diffusion_worker.constraints.automata.minimise import as_block, minimise
from diffusion_worker.constraints.schema.allotments import NO_STATES, Allotments, Continuation, Place, Profile, Split
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Conj
from diffusion_worker.constraints.schema.free_values import ARRAY, OBJECT, ONE_LINE, Copy, containers, sizes
from diffusion_worker.constraints.schema.json_strings import QUOTE, Style, name_trie, string, string_body
from diffusion_worker.constraints.schema.json_syntax import COLON, COMMA, INDENTS, Layout, literals
from diffusion_worker.constraints.schema.numbers import Numbers, number
from diffusion_worker.constraints.schema.property_names import Findings, MemberGroup, allowed_names, member_groups
from diffusion_worker.constraints.schema.shapes import (
    TYPES,
    ItemLayer,
    Items,
    MemberLayer,
    Members,
    Shape,
    Text,
    distinct,
    weakest,
)
from diffusion_worker.constraints.schema.size_limits import SizeLimits
from diffusion_worker.constraints.schema.strings import MIN_WIDE, language
from diffusion_worker.constraints.spec import WhiteSpace

ByType = Mapping[str, Sequence[Shape]]
_OPEN_BRACKET, _CLOSE_BRACKET, _OPEN_BRACE, _CLOSE_BRACE = b"[]{}"
_ROOM: Final = 2
_PLAIN: Final = frozenset(map(chr, range(0x20, 0x7F))) - {'"', "\\"}


class Builder:
    """One attempt to build a schema within one tier of size limits. `truncations`: how often a depth limit removed
    described values; `findings.is_cut`: values are missing, also unconstrained ones; `profiles`: what every place
    contains. Without allotments, unconstrained values get the least depth."""

    def __init__(
        self,
        limits: SizeLimits,
        combiner: Combiner,
        white_space: WhiteSpace = WhiteSpace.BOUNDED,
        allotments: Allotments | None = None,
    ) -> None:
        self.graph = Graph(max_states=limits.states)
        self.layout = Layout(self.graph, white_space, INDENTS[: limits.indents])
        self.limits = limits
        self.combiner = combiner
        self.white_space = white_space
        self.findings = Findings()
        self.start = -1
        self.truncations = 0
        self.profiles: dict[Place, Profile] = {}
        self._allotments = allotments
        self._around = Profile()  # of the container in progress
        self.style: Style = "raw" if limits.dense else "plain"  # of strings with restrictions
        self.pointer = ""  # JSON pointer of the subschema in progress
        self._wide = 0
        self._room = _ROOM * limits.states  # under construction in all blocks together
        self._blocks: dict[tuple[Place, int, int], Block] = {}
        self._active: Counter[int] = Counter()
        self._cuts = 0  # truncations that depend on the recursion around a value
        self._known: dict[tuple[Conj, Continuation], int | None] = {}

    def build(self, states: int = 0) -> None:
        """Set `start` to the state before a whole document and the white space around it. `states`: the allotment of
        the document. Raises TooLarge."""
        start = self.value((self.combiner.document.root,), Continuation(following=self.layout.end(), states=states))
        self.start = self.graph.state(()) if start is None else self.layout.start(start)

    def value(self, conj: Conj, continuation: Continuation) -> int | None:
        """The state before a value that satisfies all nodes; None: no such value within the limits."""
        if continuation.depth > self.limits.depth:
            self.truncations += 1
            self.findings.is_cut = True
            return None
        key = (conj, continuation)
        if key in self._known:
            return self._known[key]
        cuts = self._cuts
        state = self._built(conj, continuation)
        if cuts == self._cuts:
            self._known[key] = state
        return state

    def _built(self, conj: Conj, continuation: Continuation) -> int | None:
        self.pointer = conj[0].pointer if conj else self.pointer
        shapes = self.combiner.shapes(conj)
        starts: list[int] = []
        self.findings.is_cut |= any(shape.text.formats for shape in shapes)  # also those that removed literals
        if given := [value for shape in shapes for value in shape.literals or ()]:
            kept = [value for value in distinct(given) if self.combiner.satisfies(value, conj)]
            starts.extend(literals(self.graph, self.layout, kept, continuation.following, continuation.depth))
        by_type = self.by_type([shape for shape in shapes if shape.literals is None])
        starts.extend(self._scalars(by_type, continuation))
        if by_type["array"] or by_type["object"]:
            place = Place(conj, continuation.around, continuation.is_undeclared)
            starts.extend(self.containers(place, by_type, continuation))
        return self.graph.state(self.graph.merged([], *starts)) if starts else None

    def by_type(self, shapes: Sequence[Shape]) -> ByType:
        """The shapes of each type."""
        for shape in shapes:
            self.findings.unchecked |= shape.unchecked
        return {name: [shape for shape in shapes if name in shape.types] for name in TYPES}

    def _scalars(self, by_type: ByType, continuation: Continuation) -> Iterator[int]:
        """The states before a scalar of any of the shapes; equal restrictions of a type are built once."""
        graph, following = self.graph, continuation.following
        if by_type["null"]:
            yield graph.word(b"null", following)
        if by_type["boolean"]:
            yield from (graph.word(word, following) for word in (b"true", b"false"))
        found = [
            *(self._number(numbers, following) for numbers in weakest(shape.numbers for shape in by_type["number"])),
            *(self._string(text, continuation) for text in weakest(shape.text for shape in by_type["string"])),
        ]
        yield from (state for state in found if state is not None)

    def containers(self, place: Place, by_type: ByType, continuation: Continuation, /) -> Iterator[int]:
        """The states before a container of any of the shapes."""
        self._note(place, is_required=continuation.is_required)
        split = NO_STATES if self._allotments is None else self._allotments.split(place, continuation.states)
        if split is None:
            self.truncations += 1
            self.findings.is_cut = True
            yield from self._empty(by_type, continuation.following)
            return
        around, self._around = self._around, Profile()
        self.profiles.setdefault(place, self._around)  # the outermost visit is the one without cuts
        yield from self._containers_of(place, by_type, continuation, split)
        self._around = around

    def _empty(self, by_type: ByType, following: int) -> Iterator[int]:
        """Containers without content, where they are allowed."""
        if any(shape.members.low == 0 and not shape.members.required for shape in by_type["object"]):
            yield self.graph.word(b"{}", following)
        if any(shape.items.low == 0 for shape in by_type["array"]):
            yield self.graph.word(b"[]", following)

    def _note(self, place: Place, *, is_required: bool) -> None:
        self._around.inside[place] += 1
        if is_required:
            self._around.required.add(place)

    def _containers_of(self, place: Place, by_type: ByType, continuation: Continuation, split: Split) -> Iterator[int]:
        free = self._unconstrained(by_type)
        arrays = [] if ARRAY in free else weakest(shape.items for shape in by_type["array"])
        objects = [] if OBJECT in free else weakest(shape.members for shape in by_type["object"])
        if free:
            yield from self._unconstrained_containers(free, continuation, split)
        if len(arrays) > 1 or len(objects) > 1:
            yield from self._united(place, arrays, objects, continuation, split)
        else:
            yield from self._alternatives(arrays, objects, continuation, split)
        if len(free) + len(arrays) + len(objects) > 1:
            self._around.required.clear()  # an alternative may be left out

    def _alternatives(
        self, arrays: Sequence[Items], objects: Sequence[Members], continuation: Continuation, split: Split
    ) -> Iterator[int]:
        found = [
            *(self._array(items, continuation, split) for items in arrays),
            *(self._object(members, continuation, split) for members in objects),
        ]
        yield from (state for state in found if state is not None)

    def _united(
        self,
        place: Place,
        arrays: Sequence[Items],
        objects: Sequence[Members],
        continuation: Continuation,
        split: Split,
    ) -> Iterator[int]:
        """Alternatives that overlap are united apart from what follows them and minimised, so that only what remains of
        them takes states here. Such a block is the same for every state that follows."""
        key = (place, 0 if self.limits.dense else continuation.depth, continuation.states)
        block = self._blocks.get(key)
        if block is None:
            cuts = self._cuts
            block = self._block(arrays, objects, continuation, split)
            if cuts == self._cuts:
                self._blocks[key] = block
        if block:
            yield self.graph.paste(block, continuation.following)

    def _block(
        self, arrays: Sequence[Items], objects: Sequence[Members], continuation: Continuation, split: Split
    ) -> Block:
        outer = self.graph, self.layout, self._known
        self.graph = graph = Graph(max_states=self._room)
        self.layout, self._known = Layout(graph, self.white_space, INDENTS[: self.limits.indents]), {}
        following = graph.state((), accepting=True)
        starts = list(self._alternatives(arrays, objects, replace(continuation, following=following), split))
        start = graph.state(graph.merged([], *starts)) if starts else following
        self._room -= len(graph.rows)
        self.graph, self.layout, self._known = outer
        return as_block(minimise(graph.rows, graph.accepting, start))

    def _unconstrained(self, by_type: ByType) -> str:
        """The opening brackets of containers whose content the schema does not restrict."""
        arrays = any(shape.items == Items() for shape in by_type["array"])
        objects = any(shape.members == Members() for shape in by_type["object"])
        return f"{OBJECT * objects}{ARRAY * arrays}"

    def _unconstrained_containers(self, openings: str, continuation: Continuation, split: Split) -> Iterator[int]:
        self.findings.is_cut = True
        is_inline = continuation.is_undeclared or not self.limits.indents
        copy = Copy(
            openings=openings,
            around=continuation.around,
            line=ONE_LINE if is_inline else continuation.depth - len(continuation.around),
            indents=() if is_inline else INDENTS[: self.limits.indents],
        )
        least = self.limits.undeclared_depth if continuation.is_undeclared else self.limits.free_depth
        found = sizes(copy, least, self.white_space)
        base = 0 if self.limits.dense else found[0]  # the tier's own states contain the least depth
        self._around.free = tuple(size - base for size in found)
        depth = least + sum(size - base <= split.free for size in found[1:])
        if block := containers(copy, depth, self.white_space):
            yield self.graph.paste(block, continuation.following)

    def _array(self, items: Items, continuation: Continuation, split: Split) -> int | None:
        with self._inside(items.layers) as allowed:
            return _Array(self, items, continuation, split).start() if allowed else None

    def _object(self, members: Members, continuation: Continuation, split: Split) -> int | None:
        with self._inside(members.layers) as allowed:
            return _Object(self, members, continuation, split).start() if allowed else None

    @contextmanager
    def _inside(self, layers: Sequence[ItemLayer | MemberLayer]) -> Iterator[bool]:
        """Whether the recursion limit allows these containers inside themselves again. Layers exist once per schema
        position, so their identity detects recursion however it was reached."""
        names = [id(layer) for layer in layers]
        allowed = all(self._active[name] <= self.limits.recursion for name in names)
        self.truncations += not allowed
        self._cuts += not allowed
        self.findings.is_cut |= not allowed
        self._active.update(names)
        yield allowed
        self._active.subtract(names)

    def _number(self, numbers: Numbers, following: int) -> int | None:
        bounds = numbers.bounds
        self.findings.is_cut |= (bounds.above or bounds.below) and not numbers.integer  # the digits are limited
        return number(self.graph, numbers, following, self.findings.unchecked)

    def _string(self, text: Text, continuation: Continuation) -> int | None:
        found = language(text, self.limits.length, compact=self.limits.compact_formats)
        self.findings.unchecked |= found.unchecked
        self.findings.is_cut |= found.is_cut or self.limits.dense
        self._wide += found.wide if found.wide > MIN_WIDE else 0
        if self._wide > self.limits.wide:
            raise TooLarge("strings of too many states")
        if not found.rows.rows:
            return None
        is_free = text == Text() and not (continuation.is_undeclared or continuation.around or self.limits.dense)
        return string(self.graph, found.rows, continuation.following, style="free" if is_free else self.style)


class _Array:
    """Arrays: items one after another, the last in a loop if there is no upper bound. Counts are copies of the item."""

    def __init__(self, builder: Builder, items: Items, continuation: Continuation, split: Split) -> None:
        self._builder, self._graph, self._items, self._continuation = builder, builder.graph, items, continuation
        self._split = split
        self._layout, self._depth = builder.layout, continuation.depth
        self._low, self._high = self._capped(items.low, "minItems"), items.high
        if self._high is not None and self._high > max(builder.limits.items, self._low):
            self._high = None
            builder.findings.unchecked.add("maxItems")

    def _capped(self, count: int, keyword: str) -> int:
        if count > self._builder.limits.items:
            self._builder.findings.unchecked.add(keyword)
        return min(count, self._builder.limits.items)

    def start(self) -> int | None:
        """The state before the opening bracket; None: no such array."""
        inner = self.inner()
        return None if inner is None else self._graph.state([(_OPEN_BRACKET, _OPEN_BRACKET, inner)])

    def inner(self) -> int | None:
        """The state after the opening bracket."""
        start = self._chain()
        items = self._graph.rows[start] if start is not None else ()
        closing = [self._closing] if self._low == 0 else []
        return self._layout.state(closing, items, self._depth + 1) if closing or items else None

    def _chain(self) -> int | None:
        """The state before the first item, built from the last item backwards. An unsatisfiable item ends the array."""
        regular = max(self._items.prefix, self._low - 1)  # items before those that may be repeated
        last = regular if self._high is None else self._high
        next_item = self._loop(regular) if self._high is None else None
        for index in range(last - 1, -1, -1):
            after = self._after(index + 1, next_item)
            next_item = None if after is None else self._item(index, after)
        return next_item

    def _after(self, count: int, next_item: int | None) -> int | None:
        item = () if next_item is None else self._graph.rows[next_item]
        commas = [(COMMA, COMMA, self._layout.state((), item, self._depth + 1))] if item else []
        closing = [self._closing] if count >= self._low else []
        return self._layout.state(commas, closing, self._depth) if commas or closing else None

    def _loop(self, index: int) -> int | None:
        """The state before item `index` of an unbounded array."""
        graph = self._graph
        after, inner = graph.reserve(), graph.reserve()
        graph.fill(after, self._layout.edges([(COMMA, COMMA, inner)], [self._closing], self._depth))
        item = self._item(index, after)
        graph.fill(inner, [] if item is None else self._layout.edges((), graph.rows[item], self._depth + 1))
        return item

    @property
    def _closing(self) -> Edge:
        return _CLOSE_BRACKET, _CLOSE_BRACKET, self._continuation.following

    def _item(self, index: int, following: int) -> int | None:
        unconstrained = index >= self._items.prefix and self._items.unconstrained
        around = ARRAY if unconstrained else ""
        conj = self._items.at(index)
        continuation = self._continuation.nested(
            following,
            around=around,
            states=self._split.inside.get(Place(conj, around), 0),
            is_required=index < self._low,
        )
        return self._builder.value(conj, continuation)


class _Object:
    """Objects: declared members in declared order, then undeclared ones in a loop.

    Whether a comma is due is part of the state (before the first member or after one), so n optional members take 2n
    states, not 2^n. Where `minProperties` or `maxProperties` matter, states are multiplied by the count of members.
    """

    def __init__(self, builder: Builder, members: Members, continuation: Continuation, split: Split) -> None:
        self._builder, self._graph, self._members, self._continuation = builder, builder.graph, members, continuation
        self._split = split
        self._layout, self._depth = builder.layout, continuation.depth
        allowed = allowed_names(builder.combiner, members, builder.limits, builder.findings)
        self._names = [name for name in members.declared if accepts(allowed, name)]
        self._required = set(members.required)
        self._is_unsatisfiable = any(name not in self._names for name in members.required)
        self._groups = [] if self._is_unsatisfiable else self._usable(member_groups(members, allowed, builder.findings))
        self._low, self._high = self._counts()
        self._after_names: dict[tuple[int, int], int | None] = {}
        self._extra: dict[int, int | None] = {}

    def _usable(self, found: Sequence[MemberGroup]) -> list[MemberGroup]:
        """Groups that can hold a member."""
        return [
            group
            for group in found
            if group.names.rows and (group.unconstrained or self._builder.combiner.shapes(group.conj))
        ]

    def _counts(self) -> tuple[int, int | None]:
        low = 0 if self._members.low <= len(self._required) else self._members.low
        high = self._members.high
        if high is not None and not self._groups and high >= len(self._names):
            high = None
        if low > 1 and self._groups:
            self._builder.findings.unchecked.add("minProperties")  # a repeated name counts once
        if low > self._builder.limits.members:
            low = self._builder.limits.members
            self._builder.findings.unchecked.add("minProperties")
        if high is not None and high > self._builder.limits.members:
            high = None
            self._builder.findings.unchecked.add("maxProperties")
        return low, high

    def _incremented(self, count: int) -> int:
        """`count` plus one, saturating where the exact count no longer matters."""
        return min(count + 1, self._low if self._high is None else self._high)

    def _full(self, count: int) -> bool:
        return self._high is not None and count >= self._high

    def start(self) -> int | None:
        """The state before the opening brace; None: no such object."""
        inner = self.inner()
        return None if inner is None else self._graph.state([(_OPEN_BRACE, _OPEN_BRACE, inner)])

    def inner(self) -> int | None:
        """The state after the opening brace."""
        if self._is_unsatisfiable:
            return None
        most = self._low if self._high is None else self._high
        for index in reversed(range(len(self._names))):  # last member first, which keeps the recursion shallow
            for count in range(min(index, most) + 1):
                self._after_name(index, count)
        closing, names = self._closing(0, 0), self._names_at(0, 0)
        return self._layout.state(closing, names, self._depth + 1) if closing or names else None

    def _names_at(self, at: int, count: int) -> list[Edge]:
        keys = None if self._full(count) else self._keys(at, count)
        return [] if keys is None else [(QUOTE, QUOTE, keys)]

    def _closing(self, at: int, count: int) -> list[Edge]:
        """The closing brace, unless a required member is missing."""
        if count < self._low or any(name in self._required for name in self._names[at:]):
            return []
        return [(_CLOSE_BRACE, _CLOSE_BRACE, self._continuation.following)]

    def _after(self, at: int, count: int) -> int | None:
        """The state after a member and before declared member `at`."""
        closing, names = self._closing(at, count), self._names_at(at, count)
        return self._after_member(closing, names) if closing or names else None

    def _after_member(self, closing: list[Edge], names: list[Edge]) -> int:
        """The state after a member: the closing brace, or a comma and the next name."""
        commas = [(COMMA, COMMA, self._layout.state((), names, self._depth + 1))] if names else []
        return self._layout.state(commas, closing, self._depth)

    def _keys(self, at: int, count: int) -> int | None:
        """The state after the opening quote of a name: member `at` or a later one, up to the next required one."""
        starts: list[int] = []
        plain: list[tuple[str, int]] = []
        required = False
        for index in range(at, len(self._names)):
            name = self._names[index]
            if (after_name := self._after_name(index, count)) is not None:
                if _PLAIN.issuperset(name):
                    plain.append((name, after_name))
                else:
                    starts.append(string_body(self._graph, dfa_of_words(frozenset((name,))), after_name))
            if required := name in self._required:
                break
        if plain:
            starts.append(name_trie(self._graph, plain, 0))
        if not required and (extra := self._undeclared(count)) is not None:
            starts.append(extra)
        return self._graph.state(self._graph.merged([], *starts)) if starts else None

    def _after_name(self, index: int, count: int) -> int | None:
        """The state after the closing quote of declared member `index`."""
        key = (index, count)
        if key not in self._after_names:
            after = self._after(index + 1, self._incremented(count))
            conj = self._builder.combiner.member(self._members, self._names[index])
            is_required = self._names[index] in self._required
            value = None if after is None else self._value(conj, after, is_required=is_required)
            self._after_names[key] = None if value is None else self._layout.sign(COLON, value)
        return self._after_names[key]

    def _value(
        self, conj: Conj, following: int, *, unconstrained: bool = False, is_required: bool = False
    ) -> int | None:
        is_undeclared = unconstrained and bool(self._members.layers)
        around = OBJECT if unconstrained and not is_undeclared else ""
        continuation = self._continuation.nested(
            following,
            around=around,
            is_undeclared=is_undeclared,
            states=self._split.inside.get(Place(conj, around, is_undeclared), 0),
            is_required=is_required,
        )
        return self._builder.value(conj, continuation)

    def _undeclared(self, count: int) -> int | None:
        """The state after the opening quote of an undeclared name; only undeclared members follow."""
        if not self._groups or self._full(count):
            return None
        if count not in self._extra:
            ahead = self._incremented(count)
            if ahead == count:
                self._extra[count] = self._loop(count)
            elif self._high is None and self._incremented(ahead) == ahead:
                self._extra[count] = self._undeclared(ahead)  # the first members lead to where the others do
            else:
                self._extra[count] = self._group_names(self._undeclared_after(ahead, self._undeclared(ahead)))
        return self._extra[count]

    def _undeclared_after(self, count: int, keys: int | None) -> int:
        closing: list[Edge] = [(_CLOSE_BRACE, _CLOSE_BRACE, self._continuation.following)] if count >= self._low else []
        return self._after_member(closing, [] if keys is None else [(QUOTE, QUOTE, keys)])

    def _loop(self, count: int) -> int:
        graph = self._graph
        after, quote = graph.reserve(), graph.reserve()
        closing = [(_CLOSE_BRACE, _CLOSE_BRACE, self._continuation.following)] if count >= self._low else []
        graph.fill(after, self._layout.edges([(COMMA, COMMA, quote)], closing, self._depth))
        keys = self._group_names(after)
        graph.fill(quote, self._layout.edges((), [(QUOTE, QUOTE, keys)], self._depth + 1))
        return keys

    def _group_names(self, following: int) -> int:
        """The names of every group, each with its value, then `following`."""
        starts: list[int] = []
        for group in self._groups:
            value = self._value(group.conj, following, unconstrained=group.unconstrained)
            if value is not None:
                after_name = self._layout.sign(COLON, value)
                starts.append(string_body(self._graph, group.names, after_name, style=self._builder.style))
        return self._graph.state(self._graph.merged([], *starts))

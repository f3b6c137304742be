from typing import Any

VERSION: int

def follow(
    program: Any,
    state: int,
    tokens_left: int,
    peak: Any,
    mass: Any,
    entropy: Any,
    sampled: Any,
    uniforms: Any,
    best: Any,
    states: Any,
    drawn: Any,
    rests: Any,
    entropies: Any,
    scratch: Any,
    /,
) -> tuple[int, int] | None: ...
def infer(
    program: Any,
    state: int,
    tokens_left: int,
    peak: Any,
    mass: Any,
    entropy: Any,
    sampled: Any,
    uniforms: Any,
    best: Any,
    states: Any,
    drawn: Any,
    rests: Any,
    entropies: Any,
    scratch: Any,
    /,
) -> tuple[int, int] | None: ...
def layout(
    single: Any,
    slots: Any,
    bits: Any,
    first_chunk: Any,
    in_place: Any,
    other: Any,
    other_slot: Any,
    vocab: int,
    /,
) -> Any: ...
def live_size(program: Any, positions: int, /) -> int: ...
def program(
    leaf_of: Any,
    class_at: Any,
    set_start: Any,
    set_node: Any,
    first_edge: Any,
    label: Any,
    target: Any,
    distance: Any,
    node_of: Any,
    target_node: Any,
    first: Any,
    sets: Any,
    to: Any,
    kind_of: Any,
    state_of_kind: Any,
    /,
) -> Any: ...
def reduce(
    layout: Any,
    logits: Any,
    scale: float,
    sampling: float,
    peak: Any,
    mass: Any,
    entropy: Any,
    sampled: Any,
    chunk_peak: Any,
    chunk_total: Any,
    /,
) -> bool: ...
def scratch_size(program: Any, positions: int, /) -> int: ...

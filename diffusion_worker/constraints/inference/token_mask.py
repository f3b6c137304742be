"""What may follow a state: which tokens, and whether there is any choice at all.

Knows an automaton and the budget of tokens; no logits.
"""

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, TokenClasses

Flags = NDArray[np.bool_]


def allowed(matcher: Matcher) -> Flags:
    """[vocab] the tokens that may stand next, of which the text can still close in time. Never none: the cursor
    promises it, and what it forbids is allowed where nothing else is."""
    automaton, left = matcher.automaton, matcher.tokens_left - 1
    classes = automaton.classes
    atoms = np.zeros(classes.atoms, np.bool_)
    for edge in range(automaton.first_edge[matcher.state], automaton.first_edge[matcher.state + 1]):
        if automaton.distance[automaton.target[edge]] <= left:
            atoms[atoms_of(classes, int(automaton.label[edge]))] = True
    tokens: Flags = atoms[classes.atom_of]
    others = tokens.copy()
    others[list(matcher.forbidden)] = False
    return others if others.any() else tokens


def forced(automaton: TokenAutomaton, state: int, tokens: NDArray[np.integer]) -> Flags:
    """[tokens] where on the way of `tokens` from `state` the constraint left a single token. The net had no say there,
    so it earns no confidence."""
    flags = np.zeros(len(tokens), np.bool_)
    for place, token in enumerate(tokens.tolist()):
        flags[place] = _has_one_way(automaton, state)
        state = automaton.after(state, token)
    return flags


def _has_one_way(automaton: TokenAutomaton, state: int) -> bool:
    first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
    if stop - first != 1 or state == automaton.done:
        return False
    atoms = atoms_of(automaton.classes, int(automaton.label[first]))
    return len(atoms) == 1 and len(automaton.classes.tokens_of(int(atoms[0]))) == 1


def atoms_of(classes: TokenClasses, label: int) -> NDArray[np.int32]:
    """The atoms of a class: the leaves below its nodes."""
    below = []
    for node in classes.nodes_of(label).tolist():
        first, count = node, 1
        while first < classes.nodes // 2:
            first, count = 2 * first, 2 * count
        below.append(classes.atom_at[first : first + count])
    atoms = np.concatenate(below)
    return atoms[atoms >= 0]

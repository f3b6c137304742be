"""A policy file into a compiled policy, whole or not at all. Every mistake names file, line, column and key.

Knows how the parts of the language fit together; its words are explained in docs/policies.md.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ruamel.yaml.comments import CommentedMap

from gateway.policy_files.dns import Lookup, unresolved
from gateway.policy_files.document import parse_document, read_document
from gateway.policy_files.limits import read_limits
from gateway.policy_files.routes import read_routes
from gateway.policy_files.section import Notes, Section
from gateway.policy_files.targets import read_targets
from gateway.routing.policy import AUTO, Policy, compile_policy
from gateway.types import Target

LANGUAGE: Final = 1


def load(path: Path, environment: Mapping[str, str], resolve: Lookup = unresolved) -> Policy:
    """Read and compile a policy file; names of several servers are asked of `resolve`. Raises PolicyError."""
    return _policy(read_document(path, environment), str(path), resolve=resolve)


def parse(text: str, environment: Mapping[str, str], *, file: str = "policy") -> Policy:
    """Compile a policy given as text; errors call it `file`. Raises PolicyError."""
    return _policy(parse_document(text, environment, file=file), file)


def visit(text: str, notes: Notes) -> Policy:
    """As `parse`, and whatever is asked of the text is noted."""
    return _policy(parse_document(text, {}, file="sample"), "sample", notes)


def _policy(document: CommentedMap, file: str, notes: Notes | None = None, resolve: Lookup = unresolved) -> Policy:
    top = Section(document, file=file, notes=notes)
    top.integer("version", least=LANGUAGE, most=LANGUAGE)
    targets, target_slos = read_targets(top, resolve)
    aliases = _aliases(top, targets)
    routes = read_routes(top, targets)
    limits = read_limits(top)
    top.close()
    return compile_policy(
        # Of what it says with the environment filled in: comments and layout make no other policy.
        content_hash=hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest(),
        targets=targets,
        target_slos=target_slos,
        routes=routes,
        aliases=aliases,
        limits=limits,
    )


def _aliases(top: Section, targets: Mapping[str, Target]) -> frozenset[str]:
    aliases = top.names("aliases", ())
    for number, alias in enumerate(aliases):
        if alias in targets:
            raise top.fault(f"{alias!r} is a target; an alias is routed like {AUTO!r}", "aliases", number)
    return frozenset(aliases)

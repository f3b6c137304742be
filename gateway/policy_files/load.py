"""Compiles a policy file. Every error names file, line, column and key.

The language is documented in docs/policies.md.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Final

from ruamel.yaml.comments import CommentedMap

from gateway.policy_files.dns import Lookup, keep_host_name
from gateway.policy_files.document import parse_document, read_document
from gateway.policy_files.limits import read_limits
from gateway.policy_files.locations import read_private_locations
from gateway.policy_files.routes import read_routes
from gateway.policy_files.section import SchemaVisitor, Section
from gateway.policy_files.targets import read_targets
from gateway.routing.policy import AUTO, Policy, compile_policy, with_limits

LANGUAGE: Final = 1


def load(path: Path, environment: Mapping[str, str], resolve: Lookup = keep_host_name) -> Policy:
    """Read and compile a policy file; `resolve` looks up the addresses of `resolve: dns` targets. Raises
    PolicyError."""
    return _policy(read_document(path, environment), str(path), resolve=resolve)


def parse(text: str, environment: Mapping[str, str], *, file: str = "policy") -> Policy:
    """Compile a policy given as text; errors call it `file`. Raises PolicyError."""
    return _policy(parse_document(text, environment, file=file), file)


def visit(text: str, visitor: SchemaVisitor) -> Policy:
    """As `parse`, and reports every key that is read to `visitor`."""
    return _policy(parse_document(text, {}, file="sample"), "sample", visitor)


def _policy(
    document: CommentedMap, file: str, visitor: SchemaVisitor | None = None, resolve: Lookup = keep_host_name
) -> Policy:
    top = Section(document, file=file, visitor=visitor)
    top.integer("version", minimum=LANGUAGE, maximum=LANGUAGE)
    private_locations = read_private_locations(top)
    targets, target_slos = read_targets(top, resolve, private_locations)
    aliases = top.strings("aliases", ())
    routes = read_routes(top, targets, private_locations)
    decoded = {target.name for route in routes for target in route.decoded.values()}
    _check_aliases(top, aliases, decoded.union(targets))
    limits = read_limits(top)
    weights = _weights(top)
    top.close()
    compiled = compile_policy(
        # After substitution: comments and layout do not change the hash, environment variables do.
        content_hash=hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest(),
        targets=targets,
        target_slos=target_slos,
        routes=routes,
        aliases=frozenset(aliases),
        private_locations=private_locations,
    )
    return replace(with_limits(compiled, limits), weights=weights)


def _weights(top: Section) -> Path | None:
    """The classifier's weights, relative to the policy file."""
    section = top.section("classifier")
    if section is None:
        return None
    given = section.string("weights")
    section.close()
    return Path(top.file).parent / str(given)


def _check_aliases(top: Section, aliases: Sequence[str], targets: Set[str]) -> None:
    for number, alias in enumerate(aliases):
        if alias in targets:
            raise top.error(
                f"{alias!r} is the name of a target; an alias is routed like {AUTO!r} and needs a name of its own",
                "aliases",
                number,
            )

"""Syntax trees of our files, parsed once for all tests of the structure."""

import ast
from functools import cache
from pathlib import Path


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(text_of(path))


@cache
def text_of(path: Path) -> str:
    """What a file says."""
    return path.read_text(encoding="utf-8")


@cache
def statements(path: Path) -> tuple[ast.AST, ...]:
    """Every statement of a file, nested ones included: a tenth of all nodes, because expressions hold none."""
    waiting: list[ast.AST] = [parsed(path)]
    found: list[ast.AST] = []
    while waiting:
        node = waiting.pop()
        found.append(node)
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, block, ())
    return tuple(found)


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file, nested ones included."""
    return tuple(ast.walk(parsed(path)))

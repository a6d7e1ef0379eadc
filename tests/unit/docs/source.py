"""What the program's source says, read from its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment
from jinja2.ext import extract_from_ast

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "gateway"
DOCS = ROOT / "docs"
# Reason codes are words; what else is called "reason" (a job's, an HTTP phrase) is not one.
TEXT_CALLS = ("text", "Text", "say")
CODE_CALLS = ("Failure", "refuse", "JobLogFailure")


def walk_package() -> Iterator[tuple[Path, ast.AST]]:
    """Yield every node of every module with its file; what runs in the job has no such texts."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "remote" not in path.relative_to(PACKAGE).parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield path, node


def find_texts() -> dict[str, str]:
    """Every template given to one of ``TEXT_CALLS`` as a literal, with a file that has it."""
    found: dict[str, str] = {}
    for path, node in walk_package():
        if (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", "")) in TEXT_CALLS
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            found[node.args[0].value] = path.relative_to(ROOT).as_posix()
    return found


def find_page_texts() -> dict[str, str]:
    """Every template given to ``_("…")`` in a page of the hub, with its file."""
    found: dict[str, str] = {}
    for path in sorted((PACKAGE / "hub" / "templates").glob("*.html")):
        for _, _, message in extract_from_ast(
            Environment(autoescape=True).parse(path.read_text(encoding="utf-8")), ("_",)
        ):
            if isinstance(message, str):
                found[message] = path.relative_to(ROOT).as_posix()
    return found


def find_reasons() -> dict[str, str]:
    """Every reason code of a ``GatewayError``, with a file that has it."""
    found: dict[str, str] = {}
    for path, node in walk_package():
        if "rehearsal" in path.parts:
            continue  # there a reason is the scheduler's
        for value in _codes_of(node):
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
                found[value.value] = path.relative_to(ROOT).as_posix()
    return found


def _codes_of(node: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.Call(func=function, args=args, keywords=keywords):
            name = getattr(function, "id", getattr(function, "attr", ""))
            # HTTPBadRequest(reason=…) is the phrase of an HTTP status
            if not name.startswith(("HTTP", "build_end")):
                yield from (keyword.value for keyword in keywords if keyword.arg == "reason")
            if name in CODE_CALLS:
                yield from args[1:2]
        case ast.arguments(posonlyargs=first, args=names, defaults=defaults) if defaults:
            pairs = zip([*first, *names][-len(defaults) :], defaults, strict=True)
            yield from (default for name, default in pairs if name.arg == "reason")
        case ast.Assign(targets=[ast.Name(id="reason" | "default_reason")]):
            yield node.value
        case ast.AnnAssign(
            target=ast.Name(id="default_reason" | "NOT_FOUND" | "FORBIDDEN"), value=value
        ):
            if value is not None:
                yield value

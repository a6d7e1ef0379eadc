"""The Jinja2 environment of job templates: sandboxed, bounded, and strict about quoting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from jinja2 import FileSystemLoader, StrictUndefined, Undefined
from jinja2.exceptions import SecurityError
from jinja2.runtime import BlockReference, Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.rendering.quoting import Quoted, check_directive, quote_assignment, quote_word

# Loops over a job's values are short; a template that needs more is mistaken.
LOOP_LIMIT: Final = 10_000
_KEPT_FILTERS: Final = (
    "default", "first", "int", "join", "last", "length", "list", "lower", "replace", "round",
    "sort", "trim", "unique", "upper",
)  # fmt: skip
_KEPT_TESTS: Final = (
    "defined", "undefined", "none", "number", "string", "in", "eq", "ne", "lt", "le", "gt", "ge",
    "==", "!=", "<", "<=", ">", ">=", "odd", "even", "divisibleby",
)  # fmt: skip


class UnquotedOutput(SecurityError):
    """A template prints a value without one of the quoting filters."""


def _finalize(value: object) -> object:
    if isinstance(value, Undefined):
        return value  # its own error names the variable
    if not isinstance(value, Quoted):
        raise UnquotedOutput(
            "a value is printed without a quoting filter; write {{ value | sh }} for a shell "
            "word, {{ value | env }} after export NAME=, {{ value | directive }} on a directive"
        )
    return value


class _QuotedBlock(BlockReference):
    # What a block prints has passed the filters already, so {{ super() }} may print it again.
    def __call__(self) -> Quoted:
        return Quoted(super().__call__())


class _Context(Context):
    def super(
        self, name: str, current: Callable[[Context], Iterator[str]]
    ) -> BlockReference | Undefined:
        reference = super().super(name, current)
        if isinstance(reference, Undefined):
            return reference
        return _QuotedBlock(reference.name, self, reference._stack, reference._depth)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 for job templates below ``directories``, looked up in that order."""

    context_class = _Context
    # So that no short expression makes a huge number or text.
    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, directories: Sequence[Path]) -> None:
        super().__init__(
            loader=FileSystemLoader(directories),
            undefined=StrictUndefined,
            finalize=_finalize,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self.filters = {name: self.filters[name] for name in _KEPT_FILTERS} | {
            "sh": quote_word,
            "env": quote_assignment,
            "directive": check_directive,
        }
        self.tests = {name: self.tests[name] for name in _KEPT_TESTS}
        self.globals = {}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse what could be large: only ``*`` and ``%`` of ordinary numbers are left."""
        for operand in (left, right):
            if not isinstance(operand, (int, float)) or abs(operand) > 2**40:
                _refuse(operator)
        return (
            super().call_binop(context, operator, left, right)
            if operator != "**"
            else _refuse(operator)
        )


def _refuse(operator: str) -> NoReturn:
    raise SecurityError(f"the operator {operator} is not available for these values")


def build_range() -> Callable[..., Iterator[int]]:
    """Return a ``range`` whose loops, all together, end after :data:`LOOP_LIMIT` rounds."""
    left = LOOP_LIMIT

    def bounded_range(*arguments: int) -> Iterator[int]:
        nonlocal left
        for value in range(*arguments):
            left -= 1
            if left < 0:
                raise SecurityError(f"its loops run more than {LOOP_LIMIT} times")
            yield value

    return bounded_range

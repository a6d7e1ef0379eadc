"""The fixed ``sh`` lines under which all scheduler commands run. Pure.

A command starts with an environment of its own, so that no variable of the account changes what it
does; what a scheduler's client needs besides is named. Queries print times in UTC and end with
:data:`ANSWERED`, so that half an answer is recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

ANSWERED: Final = "landfall:answered"

_ACCOUNT: Final = ("HOME", "USER", "LOGNAME", "SHELL", "LANG")


def _build_clean(kept: Sequence[str]) -> str:
    words = " ".join(f'${{{name}+"{name}=${name}"}}' for name in (*_ACCOUNT, *kept))
    return f'env -i "PATH=$PATH" {words}'


def build_effect_line(*kept: str) -> str:
    """The line of a command that does something; ``kept`` are variables that it needs."""
    return f'exec {_build_clean(kept)} "$@"'


def build_query_line(*kept: str) -> str:
    """The line of a command that asks; ``kept`` are variables that it needs."""
    return f'{_build_clean(kept)} TZ=UTC0 "$@" && echo {ANSWERED}'


def build_argv(line: str, program: str, arguments: Sequence[str]) -> list[str]:
    """``program`` with ``arguments`` under ``line``; no argument becomes part of the line."""
    return ["sh", "-c", line, "sh", program, *arguments]


def command_name(argv: Sequence[str]) -> str:
    """The program that an argv of :func:`build_argv` runs, without its directory."""
    return Path(argv[4]).name

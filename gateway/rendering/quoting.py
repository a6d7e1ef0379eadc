"""The three contexts in which a job template may print a value, and the filters for them.

===========  ===================================  ============================================
filter       where                                what it does
===========  ===================================  ============================================
sh           a word of a shell command            quotes it
env          the right side of ``export NAME=``   quotes it, always
directive    a value on a ``#SBATCH`` or similar  refuses what the scheduler's own parser of
             line, where no shell runs            that line would split, unquote or expand
===========  ===================================  ============================================

Control characters are refused in all three: a line break would end a directive or a command.
Only what a filter returned, or a site's own shell code, may be printed at all.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from typing import Final

from jinja2 import Undefined

# sbatch 22.05 splits directive lines at blanks and understands quotes, backslashes and "#".
DIRECTIVE: Final = re.compile(r"[A-Za-z0-9@%_+=:,./-]+", re.ASCII)
_LINE_SEPARATORS: Final = ("\u2028", "\u2029")


class Quoted(str):
    """Text that is safe where it stands: a filter has checked and quoted it."""

    __slots__ = ()


class ShellCode(Quoted):
    """Shell code that the admin wrote in the profile; printed as it is."""

    __slots__ = ()


class QuotingError(ValueError):
    """A value may not stand where a template puts it; the message is a plain sentence."""


def quote_word(value: object) -> Quoted:
    """Quote ``value`` (text or a number) as one shell word; the filter ``sh``.

    :raises QuotingError: for control characters and for anything but text and numbers.
    """
    return Quoted(shlex.quote(_to_text(value)))


def quote_assignment(value: object) -> Quoted:
    """Quote ``value`` for the right side of an ``export``; the filter ``env``.

    Always in single quotes, so that neither ``~`` nor a glob is expanded.

    :raises QuotingError: as :func:`quote_word`.
    """
    return Quoted("'" + _to_text(value).replace("'", "'\"'\"'") + "'")


def check_directive(value: object) -> Quoted:
    """Return ``value`` unchanged if it is one plain word; the filter ``directive``.

    :raises QuotingError: for blanks, quotes, control characters and the like: there is no way to
        escape them that all schedulers understand.
    """
    word = _to_text(value)
    if not DIRECTIVE.fullmatch(word):
        raise QuotingError(
            f"{_show(word)} may not stand on a directive line; letters, digits and @%_+=:,./- may"
        )
    return Quoted(word)


def _to_text(value: object) -> str:
    if isinstance(value, Undefined):
        return str(value)  # raises its own error, which names the variable
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise QuotingError(f"a {type(value).__name__} cannot be printed; print its parts")
    word = str(value)
    for character in word:
        if unicodedata.category(character) in ("Cc", "Cs") or character in _LINE_SEPARATORS:
            raise QuotingError(f"{_show(word)} holds a control character")
    return word


def _show(value: str) -> str:
    shown = value.encode("unicode_escape").decode("ascii")
    return '"' + (shown if len(shown) <= 60 else shown[:57] + "...") + '"'

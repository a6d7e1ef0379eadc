"""One argv becomes one command line for whatever shell the account has.

sshd hands the line to the account's login shell (``$SHELL -c LINE``): a POSIX shell, csh, fish.
Their quoting rules differ (csh expands ``!`` and forbids newlines even between single quotes), so
every byte outside a small set travels as an octal escape and ``/bin/sh`` puts the words together.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from gateway.errors import RequestRejected
from gateway.text import text

# Linux: one argument of a program, here the line given to ``sh -c``, holds less than 128 KiB
# (MAX_ARG_STRLEN, execve(2)).
LINE_LIMIT: Final = 120 * 1024

# These stand for themselves between single quotes in every shell, and within %b of printf(1).
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_./:=@+, -]")
_MARKER: Final = re.compile(r"[A-Za-z0-9]+", re.ASCII)


def build_command_line(argv: Sequence[str], marker: str) -> str:
    """Return a line that prints ``marker`` on stdout and stderr, then becomes ``argv``.

    Words may hold any character but NUL; lone surrogates (``os.fsdecode``) become their bytes.
    ``marker`` is letters and digits. An unknown program gives exit status 127 (POSIX ``exec``).

    :raises RequestRejected: a word holds NUL, there is no program, or the line is too long.
    """
    if not _MARKER.fullmatch(marker):
        raise ValueError("a marker is made of letters and digits")
    if not argv or not argv[0] or argv[0].startswith("-"):
        raise RequestRejected(text("There is no program to run."), reason="command")
    if any("\0" in word for word in argv):
        raise RequestRejected(
            text("A value holds a NUL character, which no command can take."), reason="command"
        )
    script = f"exec {shlex.join(argv)}".encode("utf-8", "surrogateescape")
    # In %b an escape is \0 and exactly three digits here, so that a digit after it stays a digit.
    escaped = b"".join(
        byte if _PLAIN.fullmatch(byte) else b"\\0%03o" % byte[0]
        for byte in (script[i : i + 1] for i in range(len(script)))
    ).decode("ascii")
    line = (
        f'exec /bin/sh -c \'printf {marker}; printf {marker} >&2; eval "$(printf %b "{escaped}")"\''
    )
    if len(line) > LINE_LIMIT:
        raise RequestRejected(
            text("The values given are too long for one command."), reason="command"
        )
    return line

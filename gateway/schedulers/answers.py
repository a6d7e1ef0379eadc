"""What all parsers of scheduler output share. Pure."""

from __future__ import annotations

from gateway.errors import ClusterRefused
from gateway.schedulers.command_environment import ANSWERED
from gateway.text import text


def not_understood(what: str, shown: str) -> ClusterRefused:
    """The error for output that is not as expected; ``shown`` goes into the detail, escaped."""
    return ClusterRefused(
        text("The scheduler answered in a way that is not understood."),
        detail=f"{what}: {shown[:200]!a}",
        reason="not_understood",
    )


def cut_closing_line(output: str) -> str:
    """A complete answer of a query, without the line that says that it is complete.

    :raises ClusterRefused: the answer was cut off.
    """
    closing = f"{ANSWERED}\n"
    before = output.removesuffix(closing)
    if before == output:
        raise not_understood("cut off", output[-200:])
    return before

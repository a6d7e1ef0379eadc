"""What all readers of scheduler output share. Pure."""

from __future__ import annotations

from typing import Final

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, GatewayError
from gateway.schedulers.command_environment import ANSWERED
from gateway.text import text
from gateway.transport.base import CommandResult

# sh(1): the command was not found
NOT_FOUND: Final = 127


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


def explain_failed_query(
    result: CommandResult, what: str, words: str, *, shown: str, answered: bool
) -> GatewayError:
    """The error for a query that failed, when its words say nothing more special.

    ``what`` names the command for admins; ``words`` is what it said, ``shown`` the part of it for
    users; ``answered`` tells whether those come from a scheduler that could be asked.
    """
    detail = f"{what}, exit {result.exit_status}: {words[:400]!a}"
    if result.exit_status == NOT_FOUND:
        return ConfigurationError(
            text(
                "{command} was not found on the login node: set scheduler.bin_directory.",
                command=what,
            ),
            detail=detail,
        )
    if not words or not answered:
        return ClusterUnavailable(
            text("The scheduler of the cluster does not answer."),
            detail=detail,
            reason="scheduler_unavailable",
        )
    return ClusterRefused(
        text("The scheduler refused to answer: {words}.", words=shown),
        detail=detail,
        reason="scheduler_refused",
    )

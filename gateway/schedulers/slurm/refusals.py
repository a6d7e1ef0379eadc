"""What a failed Slurm command means. Pure.

Sources: recordings of 22.05.8 and 26.05.3; slurm_errno.h for the texts of communication failures.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import (
    ConfigurationError,
    GatewayError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.schedulers.answers import NOT_FOUND, explain_failed_query
from gateway.text import Words, text
from gateway.transport.base import CommandResult

# The controller or the database was not reached, or its answer was not received.
_NO_ANSWER: Final = re.compile(
    r"timed out|unable to contact|connection (?:refused|reset|failure|aborted)|connect failure"
    r"|zero bytes were transmitted|standby mode|temporarily|try again|not responding"
    r"|message (?:send|receive) failure|shutdown failure|not connected|broken pipe"
    r"|no route to host|network is unreachable|unexpected message|insane message|header lengths"
    r"|input/output error|interrupted system call|resolve|name or service"
    r"|protocol authentication|munge|unable to connect|connection to the database"
    r"|problem talking to the database|database connection|slurm_persist_conn_open"
    r"|sending persistconn",
    re.IGNORECASE,
)
_REFUSED: Final = re.compile(r"Batch job submission failed: (.+)")
_TEMPLATE_FAULTS: Final = (
    "Batch script is empty",
    "This does not look like a batch script",
    "Batch script contains DOS line breaks",
    "line must start with #!",
)
_GONE: Final = (
    "invalid job id",
    "already completing or completed",
    "already finished",
    "job has already",
)
_NO_ACCOUNTING: Final = (
    "accounting storage is disabled",
    "not running a supported accounting_storage plugin",
)
_USAGE_ERROR: Final = 255

_GPUS: Final = text("These GPUs are not possible here.")

# Field of the request, what the scheduler's words hold, ours.
_FIELDS: Final[tuple[tuple[str, re.Pattern[str], Words], ...]] = (
    (
        "account",
        re.compile(r"invalid account", re.IGNORECASE),
        text("You cannot charge this account here."),
    ),
    (
        "qos",
        re.compile(r"invalid qos|qos not|qos permission", re.IGNORECASE),
        text("You cannot use this QoS here."),
    ),
    (
        "reservation",
        re.compile(r"reservation", re.IGNORECASE),
        text("You cannot use this reservation now."),
    ),
    (
        "walltime",
        re.compile(r"time limit|--time|wall", re.IGNORECASE),
        text("This walltime is not possible."),
    ),
    (
        "memory",
        re.compile(r"memory|--mem", re.IGNORECASE),
        text("This much memory is not possible."),
    ),
    (
        "gpus",
        re.compile(r"gres|generic resource|gpu", re.IGNORECASE),
        _GPUS,
    ),
    (
        "cores",
        re.compile(r"cpu count|more processors|--cpus-per-task", re.IGNORECASE),
        text("This many cores are not possible."),
    ),
    (
        "partition",
        re.compile(r"partition", re.IGNORECASE),
        text("You cannot use this partition."),
    ),
)


def explain_failure(result: CommandResult, what: str) -> GatewayError:
    """The error for a query that failed; ``what`` names the command for admins."""
    words = result.error_text.strip() or result.text.strip()
    detail = f"{what}, exit {result.exit_status}: {words[:400]!a}"
    if any(sign in words.lower() for sign in _NO_ACCOUNTING):
        return ConfigurationError(
            text("The cluster keeps no accounts: set scheduler.accounting to false."), detail=detail
        )
    return explain_failed_query(
        result,
        what,
        words,
        shown=_first_line(words),
        answered=not _NO_ANSWER.search(words) and result.exit_status <= 128,
    )


def explain_refusal(result: CommandResult, *, gpus: bool = False) -> GatewayError:
    """The error for an ``sbatch`` that gave no job id.

    Only a refusal in so many words is a :class:`~gateway.errors.RequestRejected`: sbatch also
    fails when the job was created and the answer was lost. ``gpus``: whether some were asked for.
    """
    words = _strip_program(result.error_text)
    detail = f"sbatch, exit {result.exit_status}: {words[:400]!a}"
    if result.exit_status == NOT_FOUND:
        return explain_failure(result, "sbatch")
    if any(fault in words for fault in _TEMPLATE_FAULTS):
        return ConfigurationError(
            text("The job template makes no valid job script: {words}.", words=_joined(words)),
            detail=detail,
        )
    refused = _REFUSED.search(words)
    clear = refused is not None and not _NO_ANSWER.search(refused[1])
    if result.exit_status == _USAGE_ERROR and refused is None:
        clear = bool(words) and not _NO_ANSWER.search(words)
    if result.exit_status == 0 or not clear:
        return SubmitAmbiguous(
            text(
                "The scheduler gave no clear answer to the submission; we are looking for the job."
            ),
            detail=detail,
        )
    shown = _joined(words.replace("Batch job submission failed: ", ""))
    return RequestRejected(
        text("The scheduler refused the job: {words}.", words=shown),
        detail=detail,
        fields=_find_fields(shown, gpus=gpus),
    )


def explain_cancel(result: CommandResult) -> GatewayError | None:
    """The error for a ``scancel`` that failed; ``None`` when the job has ended already."""
    words = result.error_text.lower()
    if "permission denied" in words:
        return RequestRejected(
            text("The job belongs to somebody else."), detail=ascii(words[:400]), reason="not_owner"
        )
    if any(sign in words for sign in _GONE):
        return None
    return explain_failure(result, "scancel")


def _find_fields(words: str, *, gpus: bool) -> dict[str, Words]:
    # "(job submit limit, user's size and/or time limits)" names everything and so nothing.
    plain = re.sub(r"\([^)]*\)", "", words)
    for field, pattern, message in _FIELDS:
        if pattern.search(plain):
            return {field: message}
    # Too much memory and too many cores are named; what is left is the GPUs.
    if gpus and "node configuration is not available" in words:
        return {"gpus": _GPUS}
    return {}


def _strip_program(words: str) -> str:
    lines = (line.removeprefix("sbatch: ").removeprefix("error: ") for line in words.splitlines())
    return "\n".join(line.strip() for line in lines if line.strip())


def _joined(words: str) -> str:
    shown = "; ".join(words.split("\n")).rstrip(".!;")[:400]
    return "".join(char if char.isprintable() else "?" for char in shown)


def _first_line(words: str) -> str:
    return _joined(words.splitlines()[0] if words else "")

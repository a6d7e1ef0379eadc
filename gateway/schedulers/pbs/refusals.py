"""What a failed PBS command means. Pure.

The exit status is the error number of the server (pbs_error.h) modulo 256; usage errors are below
10. Sources: recordings of OpenPBS 23.06.06 and main.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import (
    ClusterUnavailable,
    ConfigurationError,
    GatewayError,
    RequestRejected,
    SubmitAmbiguous,
)
from gateway.schedulers.answers import NOT_FOUND, explain_failed_query
from gateway.text import Words, text
from gateway.transport.base import CommandResult
from gateway.values.resources import ResourceRequest

UNKNOWN_JOB: Final = 153
FINISHED: Final = 35
_UNAUTHORISED: Final = 159
_WRONG_STATE: Final = 168
_NODE_AWAY: Final = 222
_BAD_VALUE: Final = 166
_UNKNOWN_RESOURCE: Final = 187
_HOOK: Final = 32
_MAX_QUEUED: Final = 38
# Usage of qsub; a script or directive that it does not take.
_USAGE: Final = frozenset({1, 2, 3, 5})
# With one of these the server has refused the job.
_REFUSED: Final = frozenset(
    {_HOOK, _MAX_QUEUED, 154, _UNAUTHORISED, _BAD_VALUE, 170, 173, 175, _UNKNOWN_RESOURCE, 188, 197}
)
_NO_ANSWER: Final = re.compile(
    r"cannot connect|couldn't connect|connection (?:refused|reset|timed out)|timed out|time-?out"
    r"|end of file|premature|protocol|system error|internal|broken pipe|no route"
    r"|unknown host|pbs_iff|pbsconf error|server shutting down|busy|try again",
    re.IGNORECASE,
)
_TEMPLATE_FAULT: Final = re.compile(r"script contains cr|directive error|script not a file")
_QUEUE_REFUSED: Final = frozenset({_UNAUTHORISED, 170, 173})
# What the attribute at fault is called, in "Illegal attribute or resource value select.mem".
_FIELDS: Final[tuple[tuple[str, re.Pattern[str], Words], ...]] = (
    (
        "walltime",
        re.compile(r"walltime", re.IGNORECASE),
        text("This walltime is not possible."),
    ),
    ("memory", re.compile(r"\bmem\b"), text("This much memory is not possible.")),
    ("cores", re.compile(r"\bncpus\b"), text("This many cores are not possible.")),
    (
        "account",
        re.compile(r"\bproject|\baccount", re.IGNORECASE),
        text("You cannot charge this account here."),
    ),
)


def explain_failure(result: CommandResult, what: str) -> GatewayError:
    """The error for a query that failed; ``what`` names the command for admins."""
    words = result.error_text.strip() or result.text.strip()
    return explain_failed_query(
        result,
        what,
        words,
        shown=_show(words),
        answered=not _NO_ANSWER.search(words),
    )


def explain_refusal(
    result: CommandResult, resources: ResourceRequest, gpu_resource: str
) -> GatewayError:
    """The error for a ``qsub`` that gave no job id.

    Only what the server refuses is a :class:`~gateway.errors.RequestRejected`: a qsub that was cut
    off may have created the job.
    """
    status = result.exit_status
    words = _strip_program(result.error_text)
    detail = f"qsub, exit {status}: {words[:400]!a}"
    if status == NOT_FOUND:
        return explain_failure(result, "qsub")
    if not _is_refused(status, result.error_text):
        return SubmitAmbiguous(
            text(
                "The scheduler gave no clear answer to the submission; we are looking for the job."
            ),
            detail=detail,
        )
    if status in _USAGE and _TEMPLATE_FAULT.search(words):
        return ConfigurationError(
            text("The job template makes no valid job script: {words}.", words=_show(words)),
            detail=detail,
        )
    return RequestRejected(
        text("The scheduler refused the job: {words}.", words=_show(words)),
        detail=detail,
        fields=_find_fields(status, words, resources, gpu_resource),
    )


def _is_refused(status: int, said: str) -> bool:
    """Whether the server has refused the job in so many words: then there is none."""
    if status in _REFUSED:
        return bool(said.strip())
    # Another error of the server's that qsub prints as its own, or a fault of usage.
    by_server = status > 128 and said.startswith("qsub: ")
    return (by_server or status in _USAGE) and bool(said.strip()) and not _NO_ANSWER.search(said)


def _find_fields(
    status: int, words: str, resources: ResourceRequest, gpu_resource: str
) -> dict[str, Words]:
    if status in _QUEUE_REFUSED:
        if resources.reservation is not None:
            return {"reservation": text("You cannot use this reservation now.")}
        return {"partition": text("You cannot use this partition.")}
    if status not in (_BAD_VALUE, _UNKNOWN_RESOURCE):
        return {}
    for field, pattern, message in _FIELDS:
        if pattern.search(words):
            return {field: message}
    if resources.gpus is not None and re.search(rf"\b{re.escape(gpu_resource)}\b", words):
        return {"gpus": text("These GPUs are not possible here.")}
    return {}


def explain_cancel(result: CommandResult) -> GatewayError | None:
    """The error for a ``qdel`` that failed; ``None`` when the job has ended or is ending."""
    if result.exit_status in (FINISHED, UNKNOWN_JOB, _WRONG_STATE) and result.stderr:
        return None
    if result.exit_status == _UNAUTHORISED:
        return RequestRejected(
            text("The job belongs to somebody else."),
            detail=ascii(result.error_text[:400]),
            reason="not_owner",
        )
    if result.exit_status == _NODE_AWAY:
        return ClusterUnavailable(
            text("The compute node of the job does not answer; the job goes on until it does."),
            detail=ascii(result.error_text[:400]),
            reason="node_unavailable",
        )
    return explain_failure(result, "qdel")


def _strip_program(words: str) -> str:
    lines = (line.strip().removeprefix("qsub: ") for line in words.splitlines())
    shown = dict.fromkeys(line.strip() for line in lines if line.strip())
    return "\n".join(shown).partition("usage:")[0].strip()


def _show(words: str) -> str:
    shown = "; ".join(words.splitlines()).rstrip(".!; ")[:400]
    return "".join(char if char.isprintable() else "?" for char in shown)

"""What a failed Grid Engine command says, and who must act. Pure.

Source: the clients of 8.1.9. They exit 1 for most failures; what they print tells them apart. qdel
and qconf print errors on stdout too.
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
from gateway.profiles.models import GridEngineSchedulerProfile
from gateway.schedulers.answers import NOT_FOUND, explain_failed_query
from gateway.text import Words, text
from gateway.transport.base import CommandResult

# The question did not get there, or its answer did not come back.
_NO_ANSWER: Final = re.compile(
    r"commlib error|unable to (?:send|receive|contact)|unable to connect|got (?:send|read|select)"
    r"|error reading answer list|timed? ?out|connection (?:refused|reset)|can't resolve host"
    r"|no route to host|network is unreachable|qmaster is not|temporarily|try again"
    r"|broken pipe|failed receiving|request for user .* does not match",
    re.IGNORECASE,
)
_NO_HOST: Final = re.compile(r"(?:no|not an?|neither) (?:submit|admin)\b.* host")
_NO_CELL: Final = re.compile(r"SGE_ROOT|SGE_CELL|act_qmaster|/bootstrap")
_NO_RECORD: Final = re.compile(
    r"job (?:id|name) \S+ not found|no jobs running since startup|accounting.*No such file"
)
_GONE: Final = re.compile(r"does not exist|is already in deletion")
_NOT_OWNER: Final = re.compile(r"necessary privileges|denied: .*(?:permission|not owner)")
_DELETED: Final = re.compile(r"has deleted job ([0-9]+)")
_UNABLE: Final = "Unable to run job: "
UNSUITABLE: Final = "no suitable queues"
_ELSEWHERE: Final = "is not contained in its hard queue list"
_JOB_NUMBER: Final = re.compile(r"^Job [0-9]+ ")


def _build_fields(
    profile: GridEngineSchedulerProfile,
) -> tuple[tuple[str, re.Pattern[str], Words], ...]:
    """Field of the request, what the scheduler's words hold, ours; the first that fits counts."""
    gpus = re.escape(profile.gpu_complex or "\0")
    memory = re.escape(profile.memory_complex)
    return (
        (
            "gpus",
            re.compile(rf":{gpus}=|unknown resource \"?\(?{gpus}\b"),
            text("These GPUs are not possible here."),
        ),
        ("memory", re.compile(rf":{memory}="), text("This much memory is not possible.")),
        ("account", re.compile(r"project"), text("You cannot charge this account here.")),
        (
            "reservation",
            re.compile(r"advance.reservation", re.IGNORECASE),
            text("You cannot use this reservation now."),
        ),
        (
            "partition",
            re.compile(r"unknown queue|has no permission for cluster queue"),
            text("You cannot use this partition."),
        ),
        (
            "walltime",
            re.compile(r"because of cluster queue|h_rt"),
            text("This walltime is not possible."),
        ),
        (
            "cores",
            re.compile(r"\bPE\b|parallel environment|slots"),
            text("This many cores are not possible."),
        ),
    )


def read_words(result: CommandResult) -> str:
    """What a command that failed said, on whichever stream."""
    return "\n".join(part for part in (result.error_text.strip(), result.text.strip()) if part)


def has_no_record(result: CommandResult) -> bool:
    """Whether qacct answered that the accounting has no such job."""
    return result.exit_status == 1 and _NO_RECORD.search(result.error_text) is not None


def explain_failure(result: CommandResult, what: str) -> GatewayError:
    """The error for a query that failed; ``what`` names the command for admins."""
    words = read_words(result)
    detail = f"{what}, exit {result.exit_status}: {words[:400]!a}"
    if _NO_CELL.search(words):
        return ConfigurationError(
            text("Grid Engine's commands do not find their cluster: set scheduler.root and cell."),
            detail=detail,
        )
    if _NO_HOST.search(words):
        return ConfigurationError(
            text("The login node may not submit jobs: Grid Engine must know it as a submit host."),
            detail=detail,
        )
    return explain_failed_query(
        result,
        what,
        words,
        shown=_joined(words.splitlines()[0]) if words else "",
        answered=not _NO_ANSWER.search(words) and result.exit_status <= 128,
    )


def explain_refusal(result: CommandResult, profile: GridEngineSchedulerProfile) -> GatewayError:
    """The error for a ``qsub`` that gave no job id.

    Only a refusal in so many words is a :class:`~gateway.errors.RequestRejected`: qsub also fails
    when the job was created and the answer was lost.
    """
    words = read_words(result)
    detail = f"qsub, exit {result.exit_status}: {words[:400]!a}"
    if _NO_ANSWER.search(words) or not words or result.exit_status == 0:
        return SubmitAmbiguous(
            text(
                "The scheduler gave no clear answer to the submission; we are looking for the job."
            ),
            detail=detail,
        )
    if result.exit_status == NOT_FOUND or _NO_CELL.search(words) or _NO_HOST.search(words):
        return explain_failure(result, "qsub")
    if "Unable to read script file" in words or "no script in your request" in words:
        return ConfigurationError(
            text("The job template makes no valid job script: {words}.", words=_joined(words)),
            detail=detail,
        )
    if f'parallel environment "{profile.parallel_environment}" does not exist' in words:
        return ConfigurationError(
            text(
                "The cluster has no parallel environment {name}: set"
                " scheduler.parallel_environment.",
                name=profile.parallel_environment,
            ),
            detail=detail,
        )
    return _reject(_strip(words), profile, detail)


def explain_unsuitable(
    verified: CommandResult, refused: CommandResult, profile: GridEngineSchedulerProfile
) -> GatewayError:
    """The error for a job that no queue could ever run; ``verified`` is what ``qsub -w v`` says of
    it, one line a queue."""
    lines = [
        _JOB_NUMBER.sub("", line)
        for line in _strip(read_words(verified)).splitlines()
        if _ELSEWHERE not in line and UNSUITABLE not in line
    ]
    detail = f"qsub -w v: {read_words(verified)[:400]!a}"
    if verified.exit_status != 1 or not lines or _NO_ANSWER.search(" ".join(lines)):
        return explain_refusal(refused, profile)
    return _reject("\n".join(lines), profile, detail)


def is_unsuitable(result: CommandResult) -> bool:
    """Whether qsub refused a job since no queue could ever run it."""
    return result.exit_status == 1 and UNSUITABLE in result.error_text


def _reject(words: str, profile: GridEngineSchedulerProfile, detail: str) -> RequestRejected:
    fields: dict[str, Words] = {}
    for field, pattern, message in _build_fields(profile):
        if pattern.search(words):
            fields = {field: message}
            break
    return RequestRejected(
        text("The scheduler refused the job: {words}.", words=_joined(words)),
        detail=detail,
        fields=fields,
    )


def explain_cancel(result: CommandResult) -> GatewayError | None:
    """The error for a ``qdel`` that failed; ``None`` when the job has ended already."""
    words = read_words(result)
    if _NO_ANSWER.search(words):
        return explain_failure(result, "qdel")
    if _NOT_OWNER.search(words):
        return RequestRejected(
            text("The job belongs to somebody else."), detail=ascii(words[:400]), reason="not_owner"
        )
    if _GONE.search(words):
        return None
    return explain_failure(result, "qdel")


def was_deleted_at_once(result: CommandResult, job: str) -> bool:
    """Whether ``qdel`` says that the job is gone: it had not begun to run."""
    match = _DELETED.search(result.text)
    return result.exit_status == 0 and match is not None and match[1] == job


def _strip(words: str) -> str:
    lines = (line.removeprefix(_UNABLE).strip() for line in words.splitlines())
    return "\n".join(line for line in lines if line and line != "Exiting.")


def _joined(words: str) -> str:
    shown = "; ".join(words.split("\n")).rstrip(".!;")[:400]
    return "".join(char if char.isprintable() else "?" for char in shown)

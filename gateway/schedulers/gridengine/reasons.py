"""Why a job waits or could not be started, in plain words. Pure.

Source: the messages of sge_schedd and sge_shepherd 8.1.9, as ``qstat -j`` prints them.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.text import Words, text

_ERRORS: Final[tuple[tuple[re.Pattern[str], Words], ...]] = (
    (
        re.compile(r"can't open output file|can't open error file|can't make directory"),
        text("its output file could not be written (is the disk full, or over quota?)"),
    ),
    (
        re.compile(r"can't chdir|changing into working directory"),
        text("its directory is not there on the compute node"),
    ),
    (
        re.compile(r"can't get password entry|unknown user|no such user"),
        text("the compute node does not know your account"),
    ),
    (
        re.compile(r"unable to find shell|searching requested shell"),
        text("there is no /bin/bash on the compute node"),
    ),
    (re.compile(r"exit_status of job start = 100"), text("its script ended with exit code 100")),
    (re.compile(r"prolog"), text("the site's prolog failed on the compute node")),
)
_NEXT: Final = text("Next in line: waiting for enough free cores, memory or GPUs.")
_WAITING: Final[tuple[tuple[re.Pattern[str], Words], ...]] = (
    (
        re.compile(r"not in the same cluster|has no permission|is not allowed"),
        text("You may not use this queue."),
    ),
    (
        re.compile(r"(?:user|project|group).*(?:quota|limit)|exceeds limit|maximum number of jobs"),
        text("You have as many jobs as you may have at once; it starts when one ends."),
    ),
    (
        re.compile(r"dependenc|predecessor|jid_predecessor"),
        text("Waiting for another job to end."),
    ),
    (
        re.compile(r"job requests unknown resource"),
        text(
            "The queue or the reservation does not offer what is asked for; the job cannot start"
            " as it is."
        ),
    ),
    (re.compile(r"reservation"), text("Waiting for its reservation to begin.")),
    # While one node of the queue is only full, that others are away does not matter.
    (re.compile(r"because it is full|overloaded|offers only"), _NEXT),
    (re.compile(r"because it is disabled"), text("The queue does not start jobs now.")),
    (
        re.compile(r"not available|unknown state|temporarily not|because of error state"),
        text("The compute nodes of the queue are not available now."),
    ),
    # Said of every queue that is out of the question, also for other reasons.
    (re.compile(r"only offers|dropped because"), _NEXT),
)


def explain_reason(state: str, reason: str) -> Words:
    """A sentence for the job's owner, from the native state and what the scheduler remarks."""
    if "E" in state:
        return _explain_error(reason)
    if "h" in state:
        return text("Held; it starts once it is released.")
    for pattern, words in _WAITING:
        if pattern.search(reason):
            return words
    if reason:
        return text("The scheduler says: {reason}.", reason=_shorten(reason))
    return text("Waiting in the queue.")


def _explain_error(reason: str) -> Words:
    for pattern, words in _ERRORS:
        if pattern.search(reason):
            return text(
                "The compute node could not start the job: {words}. It will not start as it is;"
                " cancel it.",
                words=words,
            )
    if not reason:
        return text("The compute node could not start the job. It will not start; cancel it.")
    return text(
        "The compute node could not start the job: {words}. It will not start as it is; cancel it.",
        words=_shorten(reason),
    )


def _shorten(reason: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in reason)[:200].rstrip(".; ")

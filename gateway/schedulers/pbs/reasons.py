"""Why a PBS job waits, in plain words. Pure.

The scheduler writes its reason into the job's comment; a job that is held, waits for its time or
for another has none. Sources: recordings of 23.06.06 and main, and the scheduler's messages
(``schd_err_list`` in OpenPBS's constant.h).
"""

from __future__ import annotations

import re
from typing import Final

from gateway.text import Words, text

_HELD: Final = {
    "s": text("Held by the scheduler or an administrator of the cluster."),
    "o": text("Held by an operator of the cluster."),
    "u": text("Held by its owner; it starts once it is released."),
    "p": text("Held: the scheduler lacks a password of the job's owner."),
}
_NOT_LOOKED: Final = text("The scheduler has not looked at the job yet.")
_AMOUNT: Final = re.compile(
    r"Insufficient amount of (?:(queue|server) )?resource:? (\S+)(?: \((.+)\))?", re.ASCII
)
_ASKED: Final = re.compile(r"R: (\S+) A: (\S+) T: (\S+)", re.ASCII)
# What the comment holds, and our words; the first that fits counts.
_SAYS: Final[tuple[tuple[re.Pattern[str], Words], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        ("queue not started", text("The queue does not start jobs now.")),
        ("queue not enabled", text("The queue does not take jobs now.")),
        (
            "user has reached .*limit|would exceed .*per-user|by user",
            text("You have as many jobs as you may have at once; it starts when one ends."),
        ),
        (
            "(group|project) has reached .*limit|would exceed .*per-(group|project)",
            text("Your group or project has reached a limit; it starts when a job of it ends."),
        ),
        (
            "reached .*limit|limit .*reached|would exceed",
            text("A limit of the cluster is reached; it starts when another job ends."),
        ),
        (
            "not enough free nodes|no available resources on nodes|no free nodes",
            text("Waiting for enough free cores, memory or GPUs."),
        ),
        (
            "conflict.*(reservation|top job)|strict|top job|starv|calendar|higher priority",
            text("Other jobs are ahead in the queue, or a reservation begins too soon."),
        ),
        ("cross dedicated time|dedicated time", text("Time dedicated to other work is near.")),
        ("reservation", text("Waiting for its reservation to begin.")),
        ("prime *time|primetime", text("The queue starts jobs at certain times only.")),
        ("draining|suspended job", text("The cluster makes room for a job with more priority.")),
    )
)


def explain_waiting(state: str, holds: str, comment: str, *, depends: bool = False) -> Words:
    """A sentence for the owner of a job that waits; a comment not known here is shown as it is.

    ``holds`` are the letters of ``Hold_Types``; ``depends``: it waits for another job, for which
    the server holds it.
    """
    if state == "W":
        return text("Its earliest start time has not come yet.")
    if state == "T":
        return text("The job is on its way to its queue.")
    if state == "H" and depends and holds == "s":
        return text("Waiting for another job to end.")
    if state == "H":
        return next((words for letter, words in _HELD.items() if letter in holds), _HELD["s"])
    reason = comment.removeprefix("Not Running:").strip()
    never = comment.startswith("Can Never Run")
    if never:
        reason = comment.removeprefix("Can Never Run").lstrip(":").strip()
    if not reason or reason.startswith(("Job was sent for execution", "Job run at")):
        return _NOT_LOOKED
    if refused := reason.partition("PBS Error:")[2].strip():
        return text("The cluster says: {reason}.", reason=_shorten(refused))
    amount = _AMOUNT.search(reason)
    if amount is not None:
        return _explain_amount(amount, never=never)
    if never:
        return text(
            "The cluster cannot give what is asked for; the job cannot start as it is ({reason}).",
            reason=_shorten(reason),
        )
    for pattern, words in _SAYS:
        if pattern.search(reason):
            return words
    return text("The scheduler says: {reason}.", reason=_shorten(reason))


def _explain_amount(match: re.Match[str], *, never: bool) -> Words:
    resource, numbers = match[2], _ASKED.search(match[3] or "")
    if numbers is None:
        if never:
            return text(
                "No node can give what is asked for ({resource}); the job cannot start as it is.",
                resource=resource,
            )
        return text("Waiting for what is asked for to be free ({resource}).", resource=resource)
    asked, free, total = numbers.groups()
    if never:
        return text(
            "More is asked for than there is: {asked} of {resource}, and there are {total}; the job"
            " cannot start as it is.",
            asked=asked,
            resource=resource,
            total=total,
        )
    return text(
        "Waiting for enough of {resource}: {asked} asked for, {free} of {total} free.",
        resource=resource,
        asked=asked,
        free=free,
        total=total,
    )


def _shorten(reason: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in reason)
    return shown.rstrip(".")[:200]

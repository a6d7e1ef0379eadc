"""What a job's log says of its failure. Pure and total: the log is the user's own file.

Marker lines ``landfall: error CODE: words`` come from the job template and from the agent
(``gateway/remote/``); a few raw lines of Slurm, PBS, bash and the kernel are known too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.text import Text, text

# Of a hostile or runaway log only the end is looked at.
TAIL_LIMIT: Final = 256 * 1024
WORDS_LIMIT: Final = 500

_MARKER: Final = re.compile(r"^landfall: error ([a-z][a-z_]{0,31}): (.*)$", re.MULTILINE)
_UNPRINTABLE: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class JobLogFailure:
    """``reason`` is a short code, ``words`` a sentence with its remedy for the job's owner,
    ``said`` the log's own words."""

    reason: str
    words: Text
    said: str = ""


# How a session ended by itself: anything more exact in the same log explains it better.
_GENERAL: Final = frozenset({"server_failed", "server_killed"})

_WORDS: Final[Mapping[str, Text]] = {
    "module_missing": text(
        "An environment module could not be loaded. Choose another environment, or show this to "
        "the cluster's support: {said}"
    ),
    "module_command": text(
        "The compute node has no module command. Show this to the cluster's support."
    ),
    "command_not_found": text(
        "The software environment lacks a command. Choose another environment, or show this to "
        "the cluster's support: {said}"
    ),
    "agent_python_missing": text(
        "The environment names a Python that is not on the compute node. Its admin must correct "
        "the cluster profile: {said}"
    ),
    "agent_python_old": text(
        "The environment names a Python that is too old or does not run. Its admin must correct "
        "the cluster profile: {said}"
    ),
    "agent_missing": text(
        "The gateway's own program was not found on the compute node. Start again; show this to "
        "the cluster's support if it happens twice."
    ),
    "quota": text(
        "A disk is full or your quota is used up. Free some space in your home directory, then "
        "start again: {said}"
    ),
    "directory_missing": text(
        "A directory is not available on the compute node. Start again; show this to the "
        "cluster's support if it happens twice: {said}"
    ),
    "directory_not_writable": text(
        "A directory cannot be written on the compute node. Show this to the cluster's support: "
        "{said}"
    ),
    "home_missing": text(
        "Your home directory is not available on the compute node. Start again; show this to the "
        "cluster's support if it happens twice."
    ),
    "socket_directory": text(
        "The directory for sockets on the compute node cannot be used. The admin must correct the "
        "cluster profile: {said}"
    ),
    "start_directory": text(
        "The start directory cannot be used. Create it or choose another one inside your home "
        "directory: {said}"
    ),
    "server_failed": text(
        "The server ended by itself with an error. The end of its log below says why: {said}"
    ),
    "server_killed": text(
        "The server was killed, most often because it used more memory than it had asked for. "
        "Start again with more memory: {said}"
    ),
    "out_of_memory": text(
        "The session used more memory than it had asked for. Start again with more memory."
    ),
    "walltime": text(
        "The session reached its time limit. Start again; choose a longer walltime if you need it."
    ),
    "other": text("The job reported an error: {said}"),
}

# First match counts. Sources: slurmstepd of 22.05 (src/slurmd/slurmstepd), OpenPBS's mom
# (mom_mach.c), bash(1), strerror(3).
_RAW: Final = (
    ("walltime", re.compile(r"^slurmstepd: error: \*\*\* .{0,200}DUE TO TIME LIMIT", re.MULTILINE)),
    ("walltime", re.compile(r"^=>> PBS: job killed: walltime \d", re.MULTILINE)),
    ("out_of_memory", re.compile(r"^=>> PBS: job killed: p?v?mem \d", re.MULTILINE)),
    (
        "out_of_memory",
        re.compile(
            r"^slurmstepd: error: .{0,200}"
            r"(?:Detected \d+ oom[-_]kill event|Exceeded .{0,40}memory)",
            re.MULTILINE | re.IGNORECASE,
        ),
    ),
    (
        "quota",
        re.compile(r"^.{0,400}(?:No space left on device|Disk quota exceeded)", re.MULTILINE),
    ),
    ("command_not_found", re.compile(r"^.{0,400}: command not found$", re.MULTILINE)),
)
_OUTRANKS_MARKERS: Final = frozenset({"walltime", "out_of_memory"})


def parse_job_log(tail: str) -> JobLogFailure | None:
    """Return why the job failed, as far as the end of its log tells; ``None`` when it does not.

    The scheduler's own end of a job counts most, then the last marker, then other raw lines; a
    marker that only says that the server ended gives way to a raw line that says why.
    """
    tail = tail[-TAIL_LIMIT:]
    raw = _find_raw(tail)
    marker = _find_marker(tail)
    if raw is not None and (marker is None or raw.reason in _OUTRANKS_MARKERS):
        return raw
    if raw is not None and marker is not None and marker.reason in _GENERAL:
        return raw
    return marker


def _find_marker(tail: str) -> JobLogFailure | None:
    last = None
    for match in _MARKER.finditer(tail):
        last = match
    return None if last is None else _build(last[1], last[2])


def _find_raw(tail: str) -> JobLogFailure | None:
    for reason, pattern in _RAW:
        if match := pattern.search(tail):
            return _build(reason, match[0])
    return None


def _build(code: str, said: str) -> JobLogFailure:
    said = _UNPRINTABLE.sub(" ", said).strip()
    if len(said) > WORDS_LIMIT:
        said = said[: WORDS_LIMIT - 1] + "…"
    reason = code if code in _WORDS else "other"
    words = Text(_WORDS[reason].template, {"said": said})
    return JobLogFailure(reason=reason, words=words, said=said)

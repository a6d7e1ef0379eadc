"""Parses what PBS prints about jobs. Pure.

The only exception is :class:`~gateway.errors.ClusterRefused` with reason ``not_understood``. An
answer about several users' jobs is taken whole or not at all: in 23.06.06 the name, project,
variables or arguments that one user gives can make the JSON of everybody invalid, and what was
misread could end somebody's session. Seen: 23.06.06 and its main branch of April 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from gateway.schedulers.answers import not_understood
from gateway.schedulers.pbs.commands import is_job_id, job_number
from gateway.values.jobs import JobId

JobAttributes = Mapping[str, object]

NO_HISTORY: Final = "not configured to maintain job history"
_UNKNOWN_JOB: Final = "Unknown Job Id"
_STATE: Final = re.compile(r"[A-Z]", re.ASCII)
# A user sets these to what they like; nothing is read from them.
_USERS_OWN: Final = frozenset({"Variable_List"})
_VERSION: Final = re.compile(r"pbs_version *= *(\S{1,60})", re.ASCII)


@dataclass(frozen=True, slots=True)
class JobsAnswer:
    """Attributes of the jobs that an answer lists. ``rest_unknown``: the server said that it
    knows none of the others; without that a job may be hidden from who asks."""

    jobs: Mapping[JobId, JobAttributes]
    rest_unknown: bool


def parse_submitted(stdout: str) -> JobId | None:
    """The id that qsub prints on a line of its own; ``None`` if none.

    A site's hook may print lines of its own before it.
    """
    lines = stdout.strip().splitlines()
    return JobId(lines[-1]) if lines and is_job_id(lines[-1]) else None


def parse_ids(output: str) -> tuple[JobId, ...]:
    """The ids that qselect prints, oldest first."""
    lines = output.split()
    if not all(map(is_job_id, lines)):
        raise not_understood("qselect", output)
    return tuple(sorted(map(JobId, dict.fromkeys(lines)), key=job_number))


def says_no_history(error_text: str) -> bool:
    """Whether the server keeps no ended jobs: then ``-x`` lists nothing at all, with success."""
    return NO_HISTORY in error_text


def says_unknown_job(error_text: str) -> bool:
    """Whether the server said that it does not know a job."""
    return _UNKNOWN_JOB in error_text


def parse_json(output: str, section: str, what: str) -> Mapping[str, Mapping[str, object]]:
    """The objects of one section (``Jobs``, ``Queue``, ``nodes``, ``Server``) by name; empty when
    the section is not there, which is how PBS says that there is nothing."""
    try:
        document = json.loads(
            output,
            strict=False,
            parse_constant=_refuse_constant,
            object_pairs_hook=_build_object,
        )
    except (ValueError, RecursionError):
        raise not_understood(what, output) from None
    if not isinstance(document, dict) or isinstance(document, _Ambiguous):
        raise not_understood(what, output)
    if "timestamp" not in document:
        raise not_understood(what, output)
    found = document.get(section, {})
    if not isinstance(found, dict) or isinstance(found, _Ambiguous):
        raise not_understood(what, output)
    for name, attributes in found.items():
        if not isinstance(attributes, dict) or isinstance(attributes, _Ambiguous):
            raise not_understood(what, f"{name}: {attributes!r}")
    return found


class _Ambiguous(dict[str, Any]):
    """An object in which a key came twice."""


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    return built if len(built) == len(pairs) else _Ambiguous(built)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def parse_jobs(output: str, asked: Collection[JobId], *, rest_unknown: bool = False) -> JobsAnswer:
    """The jobs of ``qstat -f -F json``; everything about them must be as expected."""
    found = parse_json(output, "Jobs", "qstat")
    for job, attributes in found.items():
        if job not in asked:
            raise not_understood("qstat, a job not asked for", job)
        _check_job(job, attributes)
    for job in asked:
        # Somebody's broken value can swallow the next job: it is in the text and not in the result.
        if job not in found and f'"{job}":' in output:
            raise not_understood("qstat, a job inside another", job)
    return JobsAnswer({JobId(job): found[job] for job in found}, rest_unknown)


def _check_job(job: str, attributes: JobAttributes) -> None:
    state, owner = attributes.get("job_state"), attributes.get("Job_Owner")
    if not (isinstance(state, str) and _STATE.fullmatch(state)):
        raise not_understood("qstat, state", f"{job}: {state!r}")
    if not (isinstance(owner, str) and owner.partition("@")[0]):
        raise not_understood("qstat, owner", f"{job}: {owner!r}")
    for name, value in attributes.items():
        if isinstance(value, _Ambiguous) and name not in _USERS_OWN:
            raise not_understood("qstat, attribute twice", f"{job}: {name}")


def parse_job_line(output: str, job: JobId) -> JobsAnswer:
    """One job of ``qstat -f -F dsv``, a line of ``name=value`` between bars.

    A value of the owner's may hold bars or line ends, so this serves for one job only: what they
    forge is told about their own.
    """
    if not output.strip():
        return JobsAnswer({}, rest_unknown=False)
    first, *parts = output.rstrip("\n").split("|")
    if first != f"Job Id: {job}":
        raise not_understood("qstat, a job not asked for", output)
    attributes: dict[str, object] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        above, dot, below = name.partition(".")
        if not equals:
            continue
        if not dot:
            attributes.setdefault(name, value)
        elif isinstance(group := attributes.setdefault(above, {}), dict):
            group.setdefault(below, value)
    _check_job(job, attributes)
    return JobsAnswer({job: attributes}, rest_unknown=False)


def parse_version(output: str) -> str:
    """``PBS 23.06.06`` from ``pbs_version = 23.06.06``."""
    match = _VERSION.fullmatch(output.strip())
    if match is None:
        raise not_understood("version", output)
    return f"PBS {match[1]}"


def parse_words(output: str) -> frozenset[str]:
    """The words of an answer, such as group names."""
    return frozenset(output.split())

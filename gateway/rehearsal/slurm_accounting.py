"""The look-alikes of the accounting: ``sacct`` and ``sacctmgr``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gateway.rehearsal.slurm_fields import elapsed, job_tres
from gateway.rehearsal.slurm_model import CLUSTER_NAME, VERSION, Association, Job
from gateway.rehearsal.slurm_state import SlurmState
from gateway.rehearsal.slurm_text import (
    Answer,
    Options,
    Request,
    UsageError,
    parse_options,
    show_clock,
    show_memory,
)

_COMMON: Final = " version:V verbose:v help all:a"
_DEFAULT_SACCT: Final = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"
SACCT_NAMES: Final = (
    "Account", "AllocCPUS", "AllocTRES", "Cluster", "Comment", "DerivedExitCode", "Elapsed",
    "ElapsedRaw", "Eligible", "End", "ExitCode", "JobID", "JobIDRaw", "JobName", "MaxRSS",
    "NCPUS", "NNodes", "NodeList", "Partition", "QOS", "Reason", "ReqCPUS", "ReqMem", "ReqTRES",
    "Reservation", "Start", "State", "Submit", "SystemComment", "AdminComment", "Timelimit",
    "TimelimitRaw", "UID", "User", "WorkDir",
)  # fmt: skip


def accounting_row(request: Request, job: Job) -> Mapping[str, str]:
    """A job as sacct's columns, keys lower-case."""
    cancelled = f"CANCELLED by {job.cancelled_by}" if job.cancelled_by is not None else "CANCELLED"
    code = f"{job.exit_code}:{0 if job.state in ('CANCELLED', 'TIMEOUT') else job.exit_signal}"
    state = "RUNNING" if job.state == "COMPLETING" else job.state
    ran = job.node is not None
    start = request.show_time(job.started) if ran else ("None" if job.ended else "Unknown")
    tres = job_tres(job, ordered=True)
    return {
        "account": job.account,
        "alloccpus": str(job.cores if ran else 0),
        "alloctres": tres if ran else "",
        "cluster": CLUSTER_NAME,
        "comment": job.comment,
        "derivedexitcode": "0:0",
        "elapsed": show_clock(elapsed(job)),
        "elapsedraw": str(elapsed(job)),
        "eligible": "Unknown" if job.held else request.show_time(job.submitted),
        "end": request.show_time(job.ended, "Unknown"),
        "exitcode": code,
        "jobid": str(job.id),
        "jobidraw": str(job.id),
        "jobname": job.name,
        "maxrss": "",
        "ncpus": str(job.cores),
        "nnodes": "1",
        "nodelist": job.node or "None assigned",
        "partition": job.partition,
        "qos": job.qos,
        "reason": job.reason if not ran or job.reason == "JobLaunchFailure" else "None",
        "reqcpus": str(job.cores),
        "reqmem": show_memory(job.memory),
        "reqtres": tres,
        "reservation": job.reservation or "",
        "start": start,
        "state": cancelled if job.state == "CANCELLED" else state,
        "submit": request.show_time(job.submitted),
        "systemcomment": "",
        "admincomment": "",
        "timelimit": show_clock(job.time_limit),
        "timelimitraw": str(job.time_limit // 60),
        "uid": str(os.getuid()),
        "user": job.user,
        "workdir": job.work_directory,
    }


def association_row(state: SlurmState, entry: Association) -> Mapping[str, str]:
    """An association as sacctmgr's columns, keys lower-case."""
    return {
        "account": entry.account,
        "adminlevel": "None",
        "cluster": CLUSTER_NAME,
        "defaultaccount": state.layout.associations_of(entry.user)[0].account,
        "defaultqos": entry.default_qos,
        "fairshare": "1",
        "maxjobs": "" if entry.max_jobs is None else str(entry.max_jobs),
        "maxsubmit": "" if entry.max_submit is None else str(entry.max_submit),
        "maxsubmitjobs": "" if entry.max_submit is None else str(entry.max_submit),
        "maxwall": "" if entry.max_wall is None else show_clock(entry.max_wall),
        "parentname": "",
        "partition": "",
        "qos": ",".join(entry.qos),
        "user": entry.user,
        **dict.fromkeys(("grpjobs", "grpsubmit", "grptres", "grpwall", "maxtres"), ""),
    }


def run_sacct(state: SlurmState, request: Request) -> Answer:
    """sacct(1): allocations, and the batch step unless ``-X``."""
    options = parse_options(
        request.argv[1:],
        command="sacct",
        flags=("allocations:X noheader:n parsable:p parsable2:P allusers:a duplicates:D" + _COMMON),
        valued=(
            # all that is remembered is recent: --starttime leaves nothing out
            "jobs:j format:o user:u name starttime:S state:s account:A partition:r"
        ),
    )
    if "version" in options:
        return Answer(f"{VERSION}\n")
    names = _names(options.get("format", _DEFAULT_SACCT), SACCT_NAMES, "sacct")
    users = options.listed("user")
    anyone = "allusers" in options or "jobs" in options
    rows = []
    for job in state.everything():
        row = accounting_row(request, job)
        if (
            (not users and not anyone and job.user != request.user)
            or (users and job.user not in users)
            or ("jobs" in options and str(job.id) not in options.listed("jobs"))
            or ("name" in options and job.name not in options.listed("name"))
            or ("account" in options and job.account not in options.listed("account"))
            or ("partition" in options and job.partition not in options.listed("partition"))
            or ("state" in options and job.state not in options.get("state").upper().split(","))
        ):
            continue
        rows.append(row)
        if "allocations" not in options and job.node:
            step = dict.fromkeys(row, "") | {
                key: row[key] for key in ("account", "exitcode", "start", "end", "elapsed", "ncpus",
                                          "nodelist", "submit", "alloctres", "eligible")
            }  # fmt: skip
            state_word = row["state"].partition(" ")[0].replace("TIMEOUT", "CANCELLED")
            number = f"{job.id}.batch"
            rows.append(
                {
                    **step,
                    "jobid": number,
                    "jobidraw": number,
                    "jobname": "batch",
                    "state": state_word,
                }
            )
    return _accounting(options, names, rows, {name: name for name in names})


def run_sacctmgr(state: SlurmState, request: Request) -> Answer:
    """sacctmgr(1): show of users, associations, accounts, QoS and the cluster."""
    options = parse_options(
        request.argv[1:],
        command="sacctmgr",
        flags=("readonly:r noheader:n parsable:p parsable2:P" + _COMMON),
        valued="",
    )
    if "version" in options:
        return Answer(f"{VERSION}\n")
    if len(options.words) < 2 or options.words[0] not in ("show", "list"):
        return Answer(stderr=" Access/permission denied\n", status=1)
    entity = options.words[1].lower()
    conditions: dict[str, str] = {}
    for word in options.words[2:]:
        key, equals, value = word.partition("=")
        if equals:
            conditions[{"name": "user", "names": "user", "users": "user"}.get(key, key)] = value
        elif key.lower() not in ("where", "withassoc", "withqos"):
            conditions["user"] = key
    associations = [
        entry
        for entry in state.layout.associations
        if conditions.get("user", entry.user) == entry.user
        and conditions.get("account", entry.account) == entry.account
    ]
    rows: list[Mapping[str, str]]
    if entity.startswith("assoc"):
        default = "Cluster,Account,User,Partition,QOS,DefaultQOS"
        rows = [association_row(state, entry) for entry in associations]
    elif entity.startswith("user"):
        default = "User,DefaultAccount,AdminLevel"
        rows = [association_row(state, entry) for entry in associations]
        if not {"withassoc"} & {word.lower() for word in options.words}:
            rows = list({row["user"]: row for row in reversed(rows)}.values())
    elif entity.startswith("acc"):
        default = "Account"
        rows = [{"account": name} for name in sorted({a.account for a in associations})]
    elif entity.startswith("qos"):
        default = "Name"
        limits = ("maxwall", "maxjobspu", "maxsubmitpu", "maxtrespu", "grptres", "flags")
        rows = [{**dict.fromkeys(limits, ""), "name": q, "priority": "0"} for q in state.layout.qos]
    elif entity.startswith("cluster"):
        default = "Cluster"
        rows = [{"cluster": CLUSTER_NAME}]
    else:
        return Answer(stderr=" Unknown condition\n", status=1)
    known = {**association_row(state, state.layout.associations[0]), **(rows or [{}])[0]}
    names = _names(conditions.get("format", default), known, "sacctmgr")
    headers = {"defaultqos": "Def QOS", "defaultaccount": "Def Acct", "adminlevel": "Admin"}
    titles = {name: headers.get(name.lower(), name) for name in names}
    return _accounting(options, names, rows, titles)


def _names(text: str, known: Iterable[str], command: str) -> list[str]:
    available = {name.lower(): name for name in known}
    names = []
    for word in text.split(","):
        name = word.partition("%")[0]
        if name.lower() not in available:
            if command == "sacctmgr":
                raise UsageError(f" Unknown field '{name.lower()}'")
            raise UsageError(f'{command}: error: Invalid field requested: "{name}"')
        names.append(available[name.lower()] if command == "sacct" else name)
    return names


def _accounting(
    options: Options,
    names: Sequence[str],
    rows: Iterable[Mapping[str, str]],
    titles: Mapping[str, str],
) -> Answer:
    lines = [[row[name.lower()] for name in names] for row in rows]
    if "noheader" not in options:
        lines.insert(0, [titles[name] for name in names])
    if "parsable2" in options:
        return Answer("".join("|".join(line) + "\n" for line in lines))
    if "parsable" in options:
        return Answer("".join("|".join(line) + "|\n" for line in lines))
    return Answer("".join(" ".join(f"{cell[:12]:>12}" for cell in line) + " \n" for line in lines))

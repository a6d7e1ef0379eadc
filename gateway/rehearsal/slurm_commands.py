"""The look-alike commands but ``sbatch``: each a function of the state and a request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from gateway.rehearsal import slurm_fields as fields
from gateway.rehearsal import slurm_records as records
from gateway.rehearsal.slurm_accounting import run_sacct, run_sacctmgr
from gateway.rehearsal.slurm_model import CLUSTER_NAME, VERSION, Job, Node
from gateway.rehearsal.slurm_state import SlurmState
from gateway.rehearsal.slurm_text import (
    Answer,
    Columns,
    Options,
    Request,
    UsageError,
    parse_nodes,
    parse_options,
    show_nodes,
)

_DEFAULT_QUEUE: Final = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
_START_QUEUE: Final = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %20Y %R"
_DEFAULT_SINFO: Final = "%9P %.5a %.10l %.6D %.6t %N"
_COMMON: Final = " version:V verbose:v help all:a"


def run_squeue(state: SlurmState, request: Request) -> Answer:
    """squeue(1)."""
    options = parse_options(
        request.argv[1:],
        command="squeue",
        flags=("noheader:h me start array:r" + _COMMON),
        valued=(
            "jobs:j states:t user:u name:n partition:p account:A qos:q nodelist:w "
            "reservation:R format:o Format:O"
        ),
    )
    if "version" in options:
        return Answer(f"{VERSION}\n")
    if options.get("Format"):
        columns = Columns.of_names(options.get("Format"), fields.QUEUE_HEADERS, "squeue")
    else:
        default = _START_QUEUE if "start" in options else _DEFAULT_QUEUE
        columns = Columns.of_letters(options.get("format", default), fields.QUEUE_LETTERS, "squeue")
    jobs = _select(state, request, options)
    rows = [fields.queue_row(state, request, job) for job in jobs]
    return _table(columns, rows, fields.QUEUE_HEADERS, header="noheader" not in options)


def _select(state: SlurmState, request: Request, options: Options) -> list[Job]:
    jobs = list(state.jobs.values())
    wanted = options.listed("jobs")
    for word in wanted:
        if not word.isdigit():
            raise UsageError(f"squeue: error: Invalid job id: {word}")
    if len(wanted) == 1 and int(wanted[0]) not in state.jobs:
        raise UsageError("slurm_load_jobs error: Invalid job id specified")
    states = {word.upper() for word in options.listed("states")}
    if "start" in options:
        states = {"PENDING"}
    elif not states and not wanted:
        states = {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING"}
    elif not states:
        states = {"ALL"}
    users = {request.user} if "me" in options else set(options.listed("user"))
    nodes = set(parse_nodes(options.get("nodelist")))

    def fits(job: Job) -> bool:
        return (
            (not wanted or str(job.id) in wanted)
            and ("ALL" in states or job.state in states or _compact(job) in states)
            and (not users or job.user in users)
            and (not nodes or job.node in nodes)
            and all(
                not options.listed(option) or value in options.listed(option)
                for option, value in (
                    ("name", job.name),
                    ("partition", job.partition),
                    ("account", job.account),
                    ("qos", job.qos),
                    ("reservation", job.reservation),
                )
            )
        )

    order = {"PENDING": 0, "RUNNING": 1}
    return sorted(filter(fits, jobs), key=lambda job: (order.get(job.state, 2), job.id))


def _compact(job: Job) -> str:
    return fields.QUEUE_STATES[job.state]


def run_scancel(state: SlurmState, request: Request) -> Answer:
    """scancel(1)."""
    options = parse_options(
        request.argv[1:],
        command="scancel",
        flags=("quiet:Q full:f me" + _COMMON),
        valued="user:u name:n state:t partition:p account:A",
    )
    if "version" in options:
        return Answer(f"{VERSION}\n")
    for word in options.words:
        if not word.isdigit():
            return Answer(stderr=f"scancel: error: Invalid job id {word}\n", status=1)
    filters = {
        "user": options.get("user") or (request.user if "me" in options else ""),
        "name": options.get("name"),
        "state": options.get("state").upper(),
        "partition": options.get("partition"),
        "account": options.get("account"),
    }
    if not options.words and not any(filters.values()):
        return Answer(stderr="scancel: error: No job identification provided\n", status=1)
    errors = ""
    for job in list(state.jobs.values()):
        if options.words and str(job.id) not in options.words:
            continue
        if any(value and getattr(job, key) != value for key, value in filters.items()):
            continue
        if job.user != request.user:
            if options.words:
                reason = "Access/permission denied"
                errors += f"scancel: error: Kill job error on job id {job.id}: {reason}\n"
            continue
        state.cancel(job, os.getuid())
    return Answer(stderr=errors, status=210 if errors else 0)


def run_sinfo(state: SlurmState, request: Request) -> Answer:
    """sinfo(1)."""
    options = parse_options(
        request.argv[1:],
        command="sinfo",
        flags=("noheader:h Node:N" + _COMMON),
        valued="partition:p format:o Format:O nodes:n",
    )
    if "version" in options:
        return Answer(f"{VERSION}\n")
    if options.get("Format"):
        columns = Columns.of_names(options.get("Format"), fields.SINFO_NAMES, "sinfo")
    else:
        columns = Columns.of_letters(
            options.get("format", _DEFAULT_SINFO), fields.SINFO_LETTERS, "sinfo"
        )
    wanted = options.listed("partition")
    chosen = set(parse_nodes(options.get("nodes")))
    rows = []
    for partition in state.layout.partitions:
        if wanted and partition.name not in wanted:
            continue
        nodes = [state.layout.node(name) for name in partition.nodes]
        nodes = [node for node in nodes if not chosen or node.name in chosen]
        groups = [[node] for node in nodes] if "Node" in options else _alike(state, columns, nodes)
        own = fields.partition_row(partition)
        rows += [{**own, **fields.nodes_row(state, group)} for group in groups]
    if "Node" in options:
        rows.sort(key=lambda row: row["nodelist"])
    headers = {name: name.upper() for name in fields.SINFO_NAMES} | {"available": "AVAIL"}
    return _table(columns, rows, headers, header="noheader" not in options)


def _alike(state: SlurmState, columns: Columns, nodes: Sequence[Node]) -> list[list[Node]]:
    """Group nodes that the asked columns do not tell apart."""
    groups: dict[tuple[str, ...], list[Node]] = {}
    summed = {"nodes", "nodelist", "cpusstate", "nodeaiot", "nodeai"}
    for node in nodes:
        row = fields.nodes_row(state, [node])
        key = tuple(row[name] for name in columns.names if name in row and name not in summed)
        groups.setdefault(key, []).append(node)
    return list(groups.values())


def run_scontrol(state: SlurmState, request: Request) -> Answer:
    """scontrol(1): ping, hold, release, and show of everything but steps."""
    options = parse_options(
        request.argv[1:],
        command="scontrol",
        flags=("oneliner:o details:d" + _COMMON),
        valued="",
    )
    words = list(options.words)
    if "version" in options or words[:1] == ["version"]:
        return Answer(f"{VERSION}\n")
    if words[:1] == ["ping"]:
        return Answer("Slurmctld(primary) at login is UP\n")
    if words[:1] in (["hold"], ["release"]) and len(words) == 2:
        return _hold(state, request, words[1], held=words[0] == "hold")
    if words[:1] == ["show"] and len(words) >= 2:
        wanted = words[2].rpartition("=")[2] if len(words) > 2 else ""
        return _show(state, request, words[1].lower(), wanted)
    return Answer(stderr=f"invalid keyword: {' '.join(words)}\n", status=1)


def _hold(state: SlurmState, request: Request, word: str, *, held: bool) -> Answer:
    job = state.jobs.get(int(word)) if word.isdigit() else None
    if job is None or job.state != "PENDING":
        return Answer(stderr=f"Invalid job id specified for job {word}\n", status=1)
    if job.user != request.user:
        return Answer(stderr=f"Access/permission denied for job {word}\n", status=1)
    job.held = held
    state.schedule()
    return Answer()


def _show(state: SlurmState, request: Request, what: str, wanted: str) -> Answer:
    layout = state.layout
    if what.startswith("hostname"):
        nodes = wanted or request.environment.get("SLURM_JOB_NODELIST", "")
        return Answer("".join(f"{name}\n" for name in parse_nodes(nodes)))
    if what.startswith("hostlist"):
        return Answer(show_nodes(parse_nodes(wanted)) + "\n")
    if what.startswith("config"):
        settings = {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "ClusterName": CLUSTER_NAME,
            "SLURM_VERSION": VERSION.split()[-1],
        }
        lines = [f"{name:<23} = {value}" for name, value in settings.items()]
        head = f"Configuration data as of {request.show_time(0)}"
        return Answer("\n".join([head, *lines, ""]))
    if what.startswith("job"):
        if wanted and not (wanted.isdigit() and int(wanted) in state.jobs):
            return Answer(stderr="slurm_load_jobs error: Invalid job id specified\n", status=1)
        jobs = [state.jobs[int(wanted)]] if wanted else list(state.jobs.values())
        return _records(
            (records.job_record(state, request, job) for job in jobs), "No jobs in the system"
        )
    if what.startswith("part"):
        partitions = [p for p in layout.partitions if wanted in ("", p.name)]
        missing = f"Partition {wanted} not found"
        return _records((records.partition_record(state, p) for p in partitions), missing)
    if what.startswith("node"):
        nodes_ = [n for n in layout.nodes if not wanted or n.name in parse_nodes(wanted)]
        return _records((records.node_record(state, n) for n in nodes_), f"Node {wanted} not found")
    if what.startswith("res"):
        found = [r for r in state.reservations if wanted in ("", r.name)]
        missing = f"Reservation {wanted} not found" if wanted else "No reservations in the system"
        return _records((records.reservation_record(state, request, r) for r in found), missing)
    return Answer(stderr=f"invalid entity:{what} for keyword:show\n", status=1)


def _records(records: Iterable[str], missing: str) -> Answer:
    lines = list(records)
    if lines:
        return Answer("".join(f"{line}\n" for line in lines))
    return Answer(f"{missing}\n", status=0 if missing.startswith("No ") else 1)


def _table(
    columns: Columns,
    rows: Iterable[Mapping[str, str]],
    headers: Mapping[str, str],
    *,
    header: bool,
) -> Answer:
    lines = [columns.render(headers)] if header else []
    lines += [columns.render(row) for row in rows]
    return Answer("".join(f"{line}\n" for line in lines))


# What a client says when its controller does not answer, and its exit status (recorded).
_CONTACT: Final = "Unable to contact slurm controller (connect failure)\n"
AWAY: Final[Mapping[str, tuple[str, int]]] = {
    "sbatch": ("sbatch: error: Batch job submission failed: ", 1),
    "squeue": ("slurm_load_jobs error: ", 1),
    "scancel": ("scancel: error: Kill job error: ", 8),
    "sinfo": ("slurm_load_partitions: ", 1),
    "scontrol": ("slurm_load_jobs error: ", 1),
}
COMMANDS: Final[Mapping[str, Callable[[SlurmState, Request], Answer]]] = {
    "squeue": run_squeue,
    "scancel": run_scancel,
    "sinfo": run_sinfo,
    "scontrol": run_scontrol,
    "sacct": run_sacct,
    "sacctmgr": run_sacctmgr,
}


def controller_away(command: str) -> Answer | None:
    """The answer of ``command`` while the controller is away; the accounting still answers."""
    if command not in AWAY:
        return None
    words, status = AWAY[command]
    return Answer(stderr=words + _CONTACT, status=status)

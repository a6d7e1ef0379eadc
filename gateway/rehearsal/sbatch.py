"""The ``sbatch`` look-alike: options of argv, environment and script, in that order of weight."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gateway.rehearsal.slurm_model import VERSION, Job
from gateway.rehearsal.slurm_state import Refused, SlurmState
from gateway.rehearsal.slurm_text import (
    Answer,
    Options,
    Request,
    UsageError,
    parse_gres,
    parse_memory,
    parse_options,
    parse_time_limit,
)

# What is not listed is refused: nothing is taken and then not done.
FLAGS: Final = "parsable hold:H test-only no-requeue quiet:Q verbose:v version:V get-user-env"
VALUED: Final = (
    "account:A begin:b chdir:D comment cpus-per-task:c error:e export gpus:G gpus-per-node gres "
    "job-name:J mail-type mail-user mem mem-per-cpu nodelist:w nodes:N ntasks:n open-mode "
    "output:o partition:p qos:q reservation time:t wrap"
)
# sbatch(1), INPUT ENVIRONMENT VARIABLES
_VARIABLES: Final = {
    "SBATCH_ACCOUNT": "account", "SBATCH_COMMENT": "comment", "SBATCH_GRES": "gres",
    "SBATCH_JOB_NAME": "job-name", "SBATCH_MEM_PER_NODE": "mem", "SBATCH_OUTPUT": "output",
    "SBATCH_PARTITION": "partition", "SBATCH_QOS": "qos", "SBATCH_RESERVATION": "reservation",
    "SBATCH_TIMELIMIT": "time", "SBATCH_EXPORT": "export",
}  # fmt: skip
_FAILED: Final = "sbatch: error: Batch job submission failed: "
_BEGIN: Final = re.compile(r"now(?:\+(\d+)(second|minute|hour|day)?s?)?")
_SECONDS: Final = {None: 1, "second": 1, "minute": 60, "hour": 3600, "day": 86400}


def run_sbatch(
    state: SlurmState,
    request: Request,
    *,
    base_environment: dict[str, str],
    store_script: Callable[[int, bytes], None],
    walltime_step: int,
) -> Answer:
    """Submit; walltimes are rounded up to ``walltime_step`` seconds (Slurm: whole minutes)."""
    options = _parse(request.argv[1:])
    if "version" in options:
        return Answer(f"{VERSION}\n")
    script = request.script
    if options.get("wrap"):
        head = "#!/bin/sh\n# This script was created by sbatch --wrap.\n\n"
        script = f"{head}{options.get('wrap')}\n".encode()
    elif options.words:
        script = _read_script(Path(request.cwd) / options.words[0])
    _check_script(script)
    merged = dict(_parse(_directives(script.decode("utf-8", "replace"))).values)
    merged |= {
        name: request.environment[variable]
        for variable, name in _VARIABLES.items()
        if variable in request.environment
    }
    merged |= options.values
    options = Options(merged, options.words)
    if state.layout.partition(options.get("partition", "interactive")) is None:
        name = options.get("partition")
        words = f"sbatch: error: invalid partition specified: {name}\n"
        raise UsageError(f"{words}{_FAILED}Invalid partition name specified")
    if "test-only" in options:
        job = _build(state, request, options, 0, walltime_step)
        return Answer(
            stderr=f"sbatch: Job 0 to start at {request.show_time(time.time())} using "
            f"{job.cores} processors on nodes r1 in partition {job.partition}\n"
        )

    def build(job_id: int) -> Job:
        job = _build(state, request, options, job_id, walltime_step)
        job.environment = _environment(request, options.get("export", "ALL"), base_environment)
        store_script(job_id, script)
        return job

    try:
        job = state.submit(build)
    except Refused as refusal:
        *first, last = str(refusal).split("\n")
        lines = [*first, f"Batch job submission failed: {last}"]
        return Answer(stderr="".join(f"sbatch: error: {line}\n" for line in lines), status=1)
    number = f"{job.id}\n"
    return Answer(number if "parsable" in options else f"Submitted batch job {number}")


def _parse(argv: Sequence[str]) -> Options:
    return parse_options(
        argv, command="sbatch", flags=FLAGS, valued=VALUED, status=255, stop_at_word=True
    )


def _read_script(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        words = f"sbatch: error: Unable to open file {path}"
        raise UsageError(words) from problem


def _check_script(script: bytes) -> None:
    if not script.strip():
        raise UsageError("sbatch: error: Batch script is empty!")
    if not script.startswith(b"#!"):
        raise UsageError(
            "sbatch: error: This does not look like a batch script.  The first\n"
            "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
            "sbatch: error: For instance: #!/bin/sh"
        )
    if b"\r\n" in script:
        raise UsageError(
            "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
            "sbatch: error: instead of expected UNIX line breaks (\\n)."
        )


def _directives(script: str) -> list[str]:
    words: list[str] = []
    for line in script.splitlines()[1:]:
        if line.startswith("#SBATCH"):
            words += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif line.strip() and not line.startswith("#"):
            break
    return words


def _number(options: Options, name: str, default: int = 1) -> int:
    text = options.get(name, str(default)).partition("-")[0]
    if not text.isdigit() or int(text) == 0:
        raise UsageError(f'sbatch: error: Invalid numeric value "{text}" for --{name}.', 255)
    return int(text)


def _amount(options: Options, name: str, parse: Callable[[str], int | None]) -> int | None:
    if name not in options:
        return None
    amount = parse(options.get(name))
    if amount is None:
        raise UsageError(f"sbatch: error: Invalid --{name} specification", 255)
    return amount


def _gpus(options: Options) -> tuple[int, str | None]:
    for name in ("gpus", "gpus-per-node"):
        if name in options:
            kind, _, count = options.get(name).rpartition(":")
            if not count.isdigit():
                raise UsageError(f"sbatch: error: Invalid --{name} specification", 255)
            return int(count), kind or None
    if "gres" not in options or options.get("gres").lower() == "none":
        return 0, None
    gres = parse_gres(options.get("gres"))
    if gres is None:
        raise UsageError(f"{_FAILED}Invalid generic resource (gres) specification")
    return gres


def _build(
    state: SlurmState, request: Request, options: Options, job_id: int, walltime_step: int
) -> Job:
    partition = state.layout.partition(options.get("partition", "interactive"))
    if partition is None:
        raise AssertionError("checked before")
    mine = state.layout.associations_of(request.user)
    account = options.get("account") or (mine[0].account if mine else "")
    association = next((a for a in mine if a.account == account), None)
    limit = _amount(options, "time", parse_time_limit)
    limit = limit or partition.default_time or partition.max_time
    if _number(options, "nodes") > 1:
        raise UsageError(f"{_FAILED}Node count specification invalid")
    cores = _number(options, "cpus-per-task") * _number(options, "ntasks")
    memory = _amount(options, "mem", parse_memory)
    per_core = _amount(options, "mem-per-cpu", parse_memory)
    if memory is None:
        memory = per_core * cores if per_core is not None else 1024 * cores
    gpus, kind = _gpus(options)
    begins = None
    if "begin" in options:
        match = _BEGIN.fullmatch(options.get("begin"))
        if match is None:
            raise UsageError("sbatch: error: Invalid --begin specification", 255)
        begins = int(time.time()) + int(match[1] or 0) * _SECONDS[match[2]]
    script_name = Path(options.words[0]).name if options.words else "sbatch"
    return Job(
        id=job_id,
        user=request.user,
        name=options.get("job-name") or ("wrap" if options.get("wrap") else script_name),
        partition=partition.name,
        account=account,
        qos=options.get("qos") or (association.default_qos if association else ""),
        time_limit=-(-limit // walltime_step) * walltime_step,
        cores=cores,
        memory=memory,
        gpus=gpus,
        gpu_kind=kind,
        work_directory=str(Path(request.cwd) / options.get("chdir", ".")),
        output=options.get("output", "slurm-%j.out"),
        error=options.get("error"),
        submitted=int(time.time()),
        comment=options.get("comment"),
        reservation=options.get("reservation") or None,
        wanted_node=options.get("nodelist") or None,
        begins=begins,
        held="hold" in options,
        append=options.get("open-mode") == "append",
    )


def _environment(request: Request, export: str, base: dict[str, str]) -> dict[str, str]:
    """The job's environment by ``--export`` (sbatch(1)); SLURM_* come later."""
    names = export.split(",")
    result = dict(base)
    if "ALL" in names:
        result |= request.environment
    for name in names:
        variable, equals, value = name.partition("=")
        if equals:
            result[variable] = value
        elif variable in request.environment:
            result[variable] = request.environment[variable]
    return result

"""Jobs as real processes: environment, output file and script as Slurm would set them up.

Sources: sbatch(1), "OUTPUT ENVIRONMENT VARIABLES" and "filename pattern"; Slurm 22.05.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

from gateway.rehearsal.hosts import Hosts
from gateway.rehearsal.processes import JOB_MARKER, end_processes
from gateway.rehearsal.slurm_model import CLUSTER_NAME, Job

_PATTERN: Final = re.compile(r"%(\d*)([%jAJNnuxat])")


def expand_output(pattern: str, job: Job) -> str:
    """The output path: sbatch's ``%`` patterns replaced, relative to the work directory."""
    values = {"%": "%", "u": job.user, "x": job.name, "N": job.node or "", "n": "0", "t": "0"}
    number = str(job.id)

    def replace(match: re.Match[str]) -> str:
        if match[2] in values:
            return values[match[2]]
        return number.zfill(int(match[1] or 0)) if match[2] in "jAJ" else "4294967294"

    return str(Path(job.work_directory) / _PATTERN.sub(replace, pattern))


class JobProcesses:
    """Runs jobs; implements :class:`~gateway.rehearsal.slurm_state.JobRunner`."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def store_script(self, job_id: int, script: bytes) -> None:
        """Keep the script until the job runs, readable for this account only."""
        spool = self._hosts.spool / f"job{job_id}"
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = spool / "slurm_script"
        path.write_bytes(script)
        path.chmod(0o700)

    def marker(self, job: Job) -> str:
        """What tells this job's processes from all others on the machine."""
        return f"{self._hosts.directory}/#{job.id}"

    async def start(self, job: Job) -> Callable[[], Coroutine[None, None, tuple[int, int]]]:
        """Start the script; see :class:`~gateway.rehearsal.slurm_state.JobRunner`."""
        there = os.path.isdir(job.work_directory)  # noqa: ASYNC240, PTH112 - a local directory
        directory = job.work_directory if there else "/tmp"  # noqa: S108 - as slurmd does
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if job.append else os.O_TRUNC)
        script = self._hosts.spool / f"job{job.id}" / "slurm_script"
        output = os.open(expand_output(job.output, job), flags, 0o644)
        try:
            error = os.open(expand_output(job.error, job), flags, 0o644) if job.error else output
            try:
                process = await asyncio.create_subprocess_exec(
                    str(script),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=error,
                    cwd=directory,
                    env=self._environment(job),
                    start_new_session=True,
                )
            finally:
                if error != output:
                    os.close(error)
        finally:
            os.close(output)

        async def wait() -> tuple[int, int]:
            status = await process.wait()
            return (status, 0) if status >= 0 else (0, -status)

        return wait

    async def end(self, job: Job) -> None:
        """SIGTERM, then SIGKILL, to all processes of the job."""
        await end_processes(self.marker(job))
        shutil.rmtree(self._hosts.spool / f"job{job.id}", ignore_errors=True)

    def _environment(self, job: Job) -> dict[str, str]:
        node = job.node or ""
        uid = str(os.getuid())
        environment = dict(job.environment)
        environment |= {
            JOB_MARKER: self.marker(job),
            "ENVIRONMENT": "BATCH",
            "TMPDIR": str(self._hosts.node_tmp),
            "SLURMD_NODENAME": node,
            "SLURM_CLUSTER_NAME": CLUSTER_NAME,
            "SLURM_CPUS_ON_NODE": str(job.cores),
            "SLURM_CPUS_PER_TASK": str(job.cores),
            "SLURM_GTIDS": "0",
            "SLURM_JOBID": str(job.id),
            "SLURM_JOB_ACCOUNT": job.account,
            "SLURM_JOB_CPUS_PER_NODE": str(job.cores),
            "SLURM_JOB_GID": str(os.getgid()),
            "SLURM_JOB_ID": str(job.id),
            "SLURM_JOB_NAME": job.name,
            "SLURM_JOB_NODELIST": node,
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_PARTITION": job.partition,
            "SLURM_JOB_QOS": job.qos,
            "SLURM_JOB_UID": uid,
            "SLURM_JOB_USER": job.user,
            "SLURM_LOCALID": "0",
            "SLURM_MEM_PER_NODE": str(job.memory),
            "SLURM_NNODES": "1",
            "SLURM_NODEID": "0",
            "SLURM_NODELIST": node,
            "SLURM_NODE_ALIASES": "(null)",
            "SLURM_PROCID": "0",
            "SLURM_SUBMIT_DIR": job.work_directory,
            "SLURM_SUBMIT_HOST": "login",
            "SLURM_TASKS_PER_NODE": "1",
            "SLURM_TOPOLOGY_ADDR": node,
        }
        if job.reservation:
            environment["SLURM_JOB_RESERVATION"] = job.reservation
        if job.gpus:
            devices = ",".join(str(number) for number in range(job.gpus))
            environment |= {"SLURM_GPUS_ON_NODE": str(job.gpus), "CUDA_VISIBLE_DEVICES": devices}
        return environment

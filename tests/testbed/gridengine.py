"""Grid Engine on a running bed: qmaster on the login node, execd on each compute node.

`GridEngine.up(bed)`. It has a root directory and a cell of its own below the bed's state, so that
several beds of one machine have one each; what it starts is recorded in the bed and ends with it.
Slurm goes on beside it and knows nothing of it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import state
from .bed import Bed, BedError
from .hosts import enter, network_of
from .layout import CLUSTER_SIDE, COMPUTE, LOGIN
from .processes import is_alive, start_daemon

PROGRAMS = Path("/usr/lib/gridengine")
SHARED = Path("/usr/share/gridengine")
LINKED = Path("/var/lib/gridengine")
AS_ADMIN = ("setpriv", "--reuid=sgeadmin", "--regid=sgeadmin", "--clear-groups")
PORTS = {"sge_qmaster": 6444, "sge_execd": 6445}
CORES, MEMORY, GPUS = 8, "20G", {"c1": 2}
PROJECTS = {"physics": ("alice", "bob"), "chemistry": ("carol",)}
DEFAULT_PROJECTS = {"alice": "physics"}
GROUPS_OF_QUEUES = {"long.q": "longrun"}
# Queue: its nodes and its h_rt.
QUEUES = {
    "interactive.q": (("c1", "c2"), "8:00:00"),
    "gpu.q": (("c1",), "4:00:00"),
    "small.q": (("c3",), "2:00:00"),
    "long.q": (("c2", "c3"), "168:00:00"),
}
NEEDED = (PROGRAMS / "sge_qmaster", PROGRAMS / "sge_execd", Path("/usr/bin/qconf"))

BOOTSTRAP = """\
admin_user sgeadmin
default_domain none
ignore_fqdn false
spooling_method classic
spooling_lib libspoolc
spooling_params {root}/default/common;{root}/spool/qmaster
binary_path {root}/bin
qmaster_spool_dir {root}/spool/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""
# What the daemons do quicker here than a site would have them do.
CONFIGURATION = {
    "execd_spool_dir": "{root}/spool/execd",
    "load_report_time": "00:00:02",
    "max_unheard": "00:01:00",
    "mailer": "/bin/true",
    "reporting_params": "accounting=true reporting=false flush_time=00:00:01"
    " accounting_flush_time=00:00:00 joblog=false sharelog=00:00:00",
}
SCHEDULING = {
    "schedule_interval": "0:0:1",
    "flush_submit_sec": "1",
    "flush_finish_sec": "1",
    "job_load_adjustments": "NONE",
    "max_reservation": "20",
    "default_duration": "8:00:00",
}
PARALLEL_ENVIRONMENT = """\
pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""
HOST = """\
hostname {host}
load_scaling NONE
complex_values {values}
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
"""
QUEUE = {
    "seq_no": "0",
    # The machine under the bed may be busy with other things.
    "load_thresholds": "NONE",
    "suspend_thresholds": "NONE",
    "nsuspend": "1",
    "suspend_interval": "00:05:00",
    "priority": "0",
    "min_cpu_interval": "00:05:00",
    "processors": "UNDEFINED",
    "qtype": "BATCH INTERACTIVE",
    "ckpt_list": "NONE",
    "pe_list": "smp",
    "rerun": "FALSE",
    "slots": str(CORES),
    "tmpdir": "/tmp",
    "shell": "/bin/sh",
    "prolog": "NONE",
    "epilog": "NONE",
    "shell_start_mode": "posix_compliant",
    "starter_method": "NONE",
    "suspend_method": "NONE",
    "resume_method": "NONE",
    "terminate_method": "NONE",
    "notify": "00:00:60",
    "owner_list": "NONE",
    "xuser_lists": "NONE",
    "subordinate_list": "NONE",
    "complex_values": "NONE",
    "projects": "NONE",
    "xprojects": "NONE",
    "calendar": "NONE",
    "initial_state": "default",
}
LIMITS = ("cpu", "fsize", "data", "stack", "core", "rss", "vmem")


def why_no_gridengine() -> str | None:
    """Why there can be none here, as a sentence; None when there can."""
    missing = [path.name for path in NEEDED if not path.exists()]
    return f"{', '.join(missing)} missing: run `make test-setup`" if missing else None


class GridEngine:
    """Grid Engine on one bed. The calls of `Bed` that take a daemon (`pause`, `resume`, `kill`,
    `is_running`) take `sge_qmaster` on login and `sge_execd` on compute nodes."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.root = bed.layout.state / "gridengine"
        self.environment = {"SGE_ROOT": str(self.root), "SGE_CELL": "default"}

    @classmethod
    def up(cls, bed: Bed) -> GridEngine:
        """Started, or found running. Raises BedError."""
        engine = cls(bed)
        reason = why_no_gridengine()
        if reason is not None:
            raise BedError(reason)
        if not engine.root.exists():
            engine._write()
            engine.start(LOGIN, "sge_qmaster")
            engine._configure()
            for host in COMPUTE:
                engine.start(host, "sge_execd")
            bed.wait_for("execution hosts", lambda: engine.hosts_up() == set(COMPUTE), 30)
        return engine

    def run(
        self, argv: Sequence[str], user: str | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a Grid Engine command on the login node, as the administrator unless a user is named.

        Raises BedError with what it said.
        """
        words = list(argv) if user else [*AS_ADMIN, *argv]
        done = self.bed.run(LOGIN, words, user, input, env=self.environment)
        if done.returncode != 0:
            raise BedError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
        return done

    def start(self, host: str, name: str) -> None:
        """Start a daemon that is not running and wait until it listens. Raises BedError."""
        with state.change(self.bed.layout) as record:
            holder = record.hosts[host].holder
            old = record.daemons.get(f"{host}/{name}")
            if old is not None and is_alive(old):
                return
            # SGE_ND: stay in the foreground, so that the pid is the daemon's.
            words = [f"{key}={value}" for key, value in self.environment.items()]
            argv = [*enter(holder), "env", "--chdir=/", *words, "SGE_ND=1", str(PROGRAMS / name)]
            process = start_daemon(argv, self.bed.layout.logs / f"{host}.{name}")
            record.daemons[f"{host}/{name}"] = process

        def listens() -> bool:
            if not is_alive(process):
                log = (self.bed.layout.logs / f"{host}.{name}").read_text()[-2000:]
                raise BedError(f"{name} on {host} ended: {log}")
            with network_of(holder):
                try:
                    address = (CLUSTER_SIDE[host], PORTS[name])
                    with socket.create_connection(address, timeout=1):
                        return True
                except OSError:
                    return False

        self.bed.wait_for(f"{name} on {host}", listens, 20)

    def hosts_up(self) -> set[str]:
        """The execution hosts that have reported their load."""
        lines = self.run(["qhost"]).stdout.splitlines()[2:]
        return {line.split()[0] for line in lines if line.split()[2] != "-"} - {"global"}

    def jobs(self) -> list[str]:
        """The ids of all jobs that have not ended."""
        lines = self.run(["qstat", "-u", "*", "-s", "prs"]).stdout.splitlines()[2:]
        return sorted({line.split()[0] for line in lines})

    def clear(self) -> None:
        """No job, all daemons serving, all queues enabled. Raises BedError."""
        self.bed.resume(LOGIN, "sge_qmaster")
        self.start(LOGIN, "sge_qmaster")
        for host in COMPUTE:
            self.start(host, "sge_execd")
        left = self.jobs()
        if left:
            # A job may end by itself before it is reached: that qdel fails is nothing.
            self.bed.run(LOGIN, [*AS_ADMIN, "qdel", *left], env=self.environment)
        self.bed.wait_for("an empty queue", lambda: not self.jobs(), 40)

    # Making it

    def _write(self) -> None:
        for directory in ("default/common", "spool/qmaster", "spool/execd", "made"):
            (self.root / directory).mkdir(parents=True)
        for name in ("bin", "lib", "util", "utilbin"):
            (self.root / name).symlink_to(LINKED / name)
        common = self.root / "default/common"
        (common / "bootstrap").write_text(BOOTSTRAP.format(root=self.root))
        (common / "act_qmaster").write_text(f"{LOGIN}\n")
        given = (SHARED / "default-configuration").read_text()
        changes = {key: value.format(root=self.root) for key, value in CONFIGURATION.items()}
        (self.root / "made/configuration").write_text(_changed(given, changes))
        for path in (self.root, *self.root.rglob("*")):
            if not path.is_symlink():
                shutil.chown(path, "sgeadmin", "sgeadmin")
        for words in (
            ["spoolinit", "classic", "libspoolc", f"{common};{self.root}/spool/qmaster", "init"],
            ["spooldefaults", "configuration", f"{self.root}/made/configuration"],
            ["spooldefaults", "complexes", f"{SHARED}/util/resources/centry"],
            ["spooldefaults", "usersets", f"{SHARED}/util/resources/usersets"],
            ["spooldefaults", "managers", "sgeadmin"],
        ):
            self.run([str(PROGRAMS / words[0]), *words[1:]])

    def _configure(self) -> None:
        for host in COMPUTE:
            self.run(["qconf", "-ah", host])
        self.run(["qconf", "-as", LOGIN])
        complexes = [
            "h_vmem h_vmem MEMORY <= YES YES 100M 0" if line.split()[:1] == ["h_vmem"] else line
            for line in self.run(["qconf", "-sc"]).stdout.splitlines()
        ]
        self._made("-Mc", "\n".join([*complexes, "gpu gpu INT <= YES JOB 0 0"]) + "\n")
        # Ids of a group mark the processes of a job; the hosts of all beds share one pid space.
        first = 200_000 + int(self.bed.run_id, 36) % 40_000 * 60
        for number, host in enumerate(COMPUTE):
            values = f"slots={CORES},h_vmem={MEMORY}"
            if host in GPUS:
                values += f",gpu={GPUS[host]}"
            self._made("-Ae", HOST.format(host=host, values=values))
            low = first + number * 20
            # The name of the file is the name of the host.
            self._made("-Aconf", f"gid_range {low}-{low + 19}\n", host)
        for name, members in {"longrun": ("bob",), **PROJECTS}.items():
            for member in members:
                self.run(["qconf", "-au", member, name])
        self.run(["qconf", "-au", "observer", "arusers"])
        for name in PROJECTS:
            self._made("-Aprj", f"name {name}\noticket 0\nfshare 0\nacl {name}\nxacl NONE\n")
        for name, project in DEFAULT_PROJECTS.items():
            self._made(
                "-Auser",
                f"name {name}\noticket 0\nfshare 0\ndefault_project {project}\ndelete_time 0\n",
            )
        self._made("-Ap", PARALLEL_ENVIRONMENT)
        for name, (nodes, longest) in QUEUES.items():
            limits = {f"{kind}_{what}": "INFINITY" for what in LIMITS for kind in "sh"}
            users = GROUPS_OF_QUEUES.get(name, "NONE")
            queue = {
                "qname": name,
                "hostlist": " ".join(nodes),
                "user_lists": users,
                "s_rt": "INFINITY",
                "h_rt": longest,
                **QUEUE,
                **limits,
            }
            self._made("-Aq", _lines(queue))
        given = self.run(["qconf", "-ssconf"]).stdout
        self._made("-Msconf", _changed(given, SCHEDULING))

    def _made(self, option: str, text: str, name: str = "object") -> None:
        file = self.root / "made" / name
        file.write_text(text)
        self.run(["qconf", option, str(file)])


def _lines(values: Mapping[str, str]) -> str:
    return "".join(f"{key} {value}\n" for key, value in values.items())


def _changed(given: str, changes: Mapping[str, str]) -> str:
    values = {
        line.split(None, 1)[0]: line.split(None, 1)[1]
        for line in given.splitlines()
        if line.strip() and not line.startswith("#")
    }
    return _lines({**values, **changes})

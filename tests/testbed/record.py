"""Records what Slurm's accounting commands really say: `python -m tests.testbed.record DIRECTORY`.

Brings up a bed of its own (about four minutes with the jobs). One JSON file a command, in the
order in which they were run: name, note, user, argv, stdin, rc, stdout, stderr, wall_s.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from .bed import Bed
from .layout import LOGIN

JOB_FIELDS = (
    "JobID,JobIDRaw,JobName,User,Account,Partition,QOS,State,ExitCode,DerivedExitCode,Reason,"
    "Submit,Eligible,Start,End,Elapsed,Timelimit,NodeList,NCPUS,ReqMem,MaxRSS,ReqTRES,AllocTRES,"
    "Reservation,Comment,SystemComment,AdminComment"
)
ASSOC_FIELDS = (
    "Cluster,Account,User,Partition,QOS,DefaultQOS,MaxJobs,MaxSubmit,MaxWall,MaxTRES,GrpJobs,"
    "GrpSubmit,GrpWall,GrpTRES,ParentName,Fairshare"
)
QOS_FIELDS = (
    "Name,Priority,Flags,MaxWall,MaxTRES,MaxTRESPU,MaxJobsPU,MaxSubmitPU,GrpTRES,GrpJobs,GrpSubmit,"
    "Preempt,PreemptMode"
)
QUEUE_FORMAT = "%i|%T|%r|%B|%N|%P|%u|%a|%j|%V|%S|%e|%M|%l|%L|%Q|%C|%m|%b|%v|%q"
SLEEP = "#!/bin/bash\nsleep 300\n"


class Recorder:
    """Runs commands on the login node and writes each down."""

    def __init__(self, bed: Bed, directory: Path) -> None:
        self.bed = bed
        self.directory = directory
        self.number = 0

    def run(
        self,
        name: str,
        argv: list[str],
        user: str = "alice",
        stdin: str | None = None,
        note: str = "",
    ) -> str:
        """The standard output; `user` root is the superuser."""
        start = time.monotonic()
        rc: int | None
        try:
            done = self.bed.run(
                LOGIN, argv, user=None if user == "root" else user, input=stdin, timeout=90
            )
            rc, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            rc, out, err = None, "", ""
            note = f"{note} still running after 90 s".strip()
        wall = round(time.monotonic() - start, 3)
        self.number += 1
        data: dict[str, object] = {
            "name": name,
            "note": note,
            "user": user,
            "argv": argv,
            "stdin": stdin,
        }
        data |= {"rc": rc, "stdout": out, "stderr": err, "wall_s": wall}
        file = self.directory / f"{self.number:03}-{name}.json"
        file.write_text(json.dumps(data, indent=1, ensure_ascii=False))
        print(f"{self.number:03} {name}: rc {rc} {(err or out).splitlines()[:1]}", flush=True)
        return out.strip()

    def submit(self, name: str, *options: str, user: str = "alice", script: str = SLEEP) -> str:
        argv = ["sbatch", "--parsable", "--output=/dev/null", *options]
        return self.run(f"sbatch-{name}", argv, user, script)

    def sacct(self, name: str, jobs: str, user: str = "alice", *options: str) -> None:
        argv = ["sacct", "--parsable2", *options, f"--jobs={jobs}", f"--format={JOB_FIELDS}"]
        self.run(f"sacct-{name}", argv, user)

    def job(self, name: str, jobs: str, user: str = "alice") -> None:
        """How squeue, scontrol and sacct tell of one job."""
        argv = ["squeue", "--noheader", "--states=all", f"--jobs={jobs}", "-o", QUEUE_FORMAT]
        self.run(f"squeue-fmt-{name}", argv, user)
        argv = ["scontrol", "--oneliner", "show", "job", jobs]
        self.run(f"scontrol-show-job-{name}", argv, user)
        self.sacct(name, jobs, user)

    def wait(self, job: str, *states: str, timeout: float = 30) -> None:
        """Until slurmctld and the accounting both say so (slurmdbd hears of it a little later)."""
        queue = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "-o%T"]
        records = ["sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}"]

        def said() -> bool:
            first = self.bed.run(LOGIN, queue).stdout.strip()
            second = self.bed.run(LOGIN, [*records, "--format=State"]).stdout.strip()
            return first in states and second.partition(" ")[0] in states

        self.bed.wait_for(f"job {job} {states}", said, timeout)

    def cancel_all(self) -> None:
        self.bed.reset()


def record_ends(rec: Recorder) -> None:
    """Each way in which a job ends, as the accounting keeps it."""
    root = rec.bed.run
    timeout = rec.submit("timeout", "-t", "1", "-p", "small")
    done = {
        "completed": (rec.submit("ok", script="#!/bin/bash\ntrue\n"), "COMPLETED"),
        "exit3": (rec.submit("exit3", script="#!/bin/bash\nexit 3\n"), "FAILED"),
        "sigkill": (rec.submit("sigkill", script="#!/bin/bash\nkill -9 $$\n"), "FAILED"),
        "notfound": (rec.submit("notfound", script="#!/bin/bash\nnosuchcommand\n"), "FAILED"),
        "badoutput": (rec.submit("badoutput", "-o", "/nowhere/x"), "FAILED"),
        "srun-steps": (
            rec.submit("srun-steps", script="#!/bin/bash\nsrun true\nsrun false\n"),
            "FAILED",
        ),
        "oom": (
            rec.submit(
                "oom",
                "--mem=50M",
                script="#!/bin/bash\npython3 -c 'x = bytearray(400 << 20)'\n",
            ),
            "OUT_OF_MEMORY",
        ),
    }
    for name, (job, state) in done.items():
        rec.wait(job, state)
        rec.job(name, job)
    for name, by in (("cancelled-user", "alice"), ("cancelled-root", "root")):
        running, held = rec.submit(name), rec.submit(f"{name}-pending", "--hold")
        rec.wait(running, "RUNNING")
        rec.run(f"scancel-{name}", ["scancel", running], by)
        rec.run(f"scancel-{name}-pending", ["scancel", held], by)
        for job, which in ((running, name), (held, f"{name}-pending")):
            rec.wait(job, "CANCELLED")
            rec.job(which, job)
    job = rec.submit("cancelled-operator")
    rec.wait(job, "RUNNING")
    rec.run("scancel-other", ["scancel", job], "bob")
    rec.run("scancel-operator", ["scancel", job], "observer")
    rec.wait(job, "CANCELLED")
    rec.job("cancelled-operator", job)

    low = rec.submit("preempted", "-q", "scavenger", "-p", "small", "-c", "8", user="bob")
    rec.wait(timeout, "TIMEOUT", timeout=150)
    rec.job("timeout", timeout)
    rec.wait(low, "RUNNING")
    high = rec.submit("preemptor", "-p", "small", "-c", "8")
    rec.wait(low, "PREEMPTED")
    rec.job("preempted", low, "bob")
    root(LOGIN, ["scancel", high])
    failed = rec.submit("node-fail", "--no-requeue", "-w", "c2")
    again = rec.submit("requeued", "--requeue", "-w", "c2")
    for job in (failed, again):
        rec.wait(job, "RUNNING")
    root(LOGIN, ["scontrol", "update", "nodename=c2", "state=down", "reason=recorded"])
    rec.wait(failed, "NODE_FAIL")
    rec.job("node-fail", failed)
    rec.wait(again, "PENDING")
    rec.job("requeued", again)
    rec.sacct("requeued-duplicates", again, "alice", "--duplicates")
    rec.cancel_all()
    rec.sacct("many", f"{timeout},{failed},99999999,{low}", "observer", "--allocations")
    rec.sacct("other-user", low)


def record_queries(rec: Recorder) -> None:
    """sacct of living, unknown and named jobs; what sacctmgr and sshare say of users and QoS."""
    running = rec.submit("running", "--job-name=landfall-1", "--comment=a | b\tc")
    pending = rec.submit("pending", "--job-name=landfall-2", "--hold")
    rec.wait(running, "RUNNING")
    rec.job("running", running)
    rec.job("pending", pending)
    rec.run("scontrol-suspend", ["scontrol", "suspend", running], "root")
    rec.wait(running, "SUSPENDED")
    rec.job("suspended", running)
    rec.run("scontrol-resume", ["scontrol", "resume", running], "root")
    by_name = ["sacct", "-XP", "--name=landfall-1", "--starttime=now-1hour", "-oJobID,State"]
    rec.run("sacct-by-name", by_name)
    rec.run("sacct-by-name-none", [*by_name[:2], "--name=nosuch", *by_name[3:]])
    rec.run("sacct-json", ["sacct", "--json", f"--jobs={running}"])
    rec.sacct("unknown", "99999999")
    rec.sacct("bad-id", "abc")
    rec.run("sacct-bad-field", ["sacct", "-P", "--format=Nope"])
    rec.run("sacct-fields", ["sacct", "--helpformat"])
    rec.run("sacct-version", ["sacct", "--version"])
    rec.run("sacctmgr-version", ["sacctmgr", "--version"])
    for who in ("alice", "observer", "bob", "root"):
        argv = ["sacctmgr", "--parsable2", "show", "assoc", "user=alice", f"format={ASSOC_FIELDS}"]
        rec.run(f"sacctmgr-assoc-as-{who}", argv, who)
    for name in ("bob", "carol", "tunnel", "nosuch"):
        argv = ["sacctmgr", "-nP", "show", "assoc", f"user={name}", f"format={ASSOC_FIELDS}"]
        rec.run(f"sacctmgr-assoc-of-{name}", argv, "observer")
    accounts = ["sacctmgr", "-P", "show", "assoc", "account=rrg-physics", f"format={ASSOC_FIELDS}"]
    rec.run("sacctmgr-assoc-of-account", accounts, "observer")
    user = ["sacctmgr", "-P", "show", "user", "alice", "withassoc"]
    user.append("format=User,DefaultAccount,AdminLevel,Account,QOS,DefaultQOS")
    rec.run("sacctmgr-user", user)
    rec.run("sacctmgr-qos", ["sacctmgr", "-P", "show", "qos", f"format={QOS_FIELDS}"])
    for what in ("account", "cluster", "tres"):
        rec.run(f"sacctmgr-{what}", ["sacctmgr", "--parsable2", "show", what])
    rec.run("sacctmgr-bad-field", ["sacctmgr", "-P", "show", "assoc", "format=Nope"])
    rec.run("sacctmgr-denied", ["sacctmgr", "-i", "add", "account", "mine"])
    rec.run("sshare", ["sshare", "--parsable2"])
    rec.run("sshare-all", ["sshare", "--parsable2", "--all"], "observer")
    rec.run("sprio", ["sprio", "--long"])
    rec.run("assoc-mgr", ["scontrol", "-o", "show", "assoc_mgr", "users=alice", "flags=assoc,qos"])
    rec.bed.configure_slurm("PrivateData=jobs")
    for who in ("bob", "observer"):
        argv = ["squeue", "--noheader", "--states=all", f"--jobs={running}", "-o", QUEUE_FORMAT]
        rec.run(f"private-squeue-as-{who}", argv, who)
        show = ["scontrol", "--oneliner", "show", "job", running]
        rec.run(f"private-scontrol-as-{who}", show, who)
    rec.cancel_all()


def record_refusals(rec: Recorder) -> None:
    """What enforcement refuses at once, and what it lets wait."""
    rec.submit("unknown-account", "-A", "nope")
    rec.submit("account-of-another", "-A", "def-carol")
    rec.submit("unknown-qos", "-q", "nope")
    rec.submit("qos-not-allowed", "-q", "short", user="carol")
    rec.submit("no-association", user="tunnel")
    rec.submit("forbidden-partition", "-p", "long")
    waiting = {
        "qos-max-wall": rec.submit("qos-max-wall", "-q", "short", "-t", "2:00:00"),
        "assoc-max-wall": rec.submit(
            "assoc-max-wall", "-p", "long", "-t", "2-0:00", "-w", "c2", user="bob"
        ),
        # The partition has no default time: the association's MaxWall is taken, over its limit.
        "assoc-wall-as-default": rec.submit("assoc-wall-as-default", "-p", "gpu", user="bob"),
    }
    time.sleep(3)
    for name, job in waiting.items():
        rec.job(f"waits-{name}", job, "observer")
    rec.cancel_all()
    first = rec.submit("qos-first", "-q", "short", "-t", "5")
    waiting["qos-max-jobs"] = rec.submit("qos-second", "-q", "short", "-t", "5")
    rec.submit("qos-submit-limit", "-q", "short", "-t", "5")
    rec.wait(first, "RUNNING")
    one = rec.submit("gpu-first", "-p", "gpu", "-t5", "--gres=gpu:1", user="bob")
    waiting["grp-gres"] = rec.submit("gpu-second", "-p", "gpu", "-t5", "--gres=gpu:1", user="bob")
    rec.wait(one, "RUNNING")
    time.sleep(3)
    for name in ("qos-max-jobs", "grp-gres"):
        rec.job(f"waits-{name}", waiting[name], "observer")
    sbatch = ["sbatch", "--hold", "--array=0-20", "--output=/dev/null"]
    rec.run("sbatch-assoc-submit-limit", sbatch, "bob", SLEEP)
    rec.cancel_all()


def record_outages(rec: Recorder) -> None:
    """slurmdbd, MariaDB or munge away: who says what, after how long."""
    bed = rec.bed
    queries = {
        "sacct": ["sacct", "-nXP", "--starttime=now-1hour", "-oJobID,State"],
        "sacctmgr": ["sacctmgr", "-nP", "show", "assoc", "user=alice", "format=Account,QOS"],
        "sshare": ["sshare", "--parsable2"],
        "squeue": ["squeue", "--noheader"],
    }

    def ask(prefix: str) -> None:
        for name, argv in queries.items():
            rec.run(f"{prefix}-{name}", argv)
        rec.submit(prefix, script="#!/bin/bash\ntrue\n")

    for daemon, short in (("slurmdbd", "dbd"), ("mariadb", "mariadb"), ("munged", "munge")):
        bed.stop(LOGIN, daemon)
        ask(f"{short}-down")
        bed.start(LOGIN, daemon)
    bed.reset()
    bed.pause(LOGIN, "slurmdbd")
    ask("dbd-hung")
    bed.resume(LOGIN, "slurmdbd")
    bed.stop(LOGIN, "slurmctld")
    ask("ctld-down")
    bed.reset()


def main() -> int:
    """Raises BedError when the bed fails."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.json"):
        old.unlink()
    with Bed.up(say=print) as bed:
        rec = Recorder(bed, directory)
        for part in (record_refusals, record_queries, record_ends, record_outages):
            part(rec)
    return 0


if __name__ == "__main__":
    sys.exit(main())

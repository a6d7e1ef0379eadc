"""The bed is what it says: a real cluster that the hub reaches only through its login node."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.testbed import Bed, BedError
from tests.testbed.keys import make_key
from tests.testbed.layout import COMPUTE, HOSTS, HUB, LOGIN, layout_of
from tests.testbed.processes import inode_of
from tests.testbed.teardown import list_beds, remove_stale

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def job(bed: Bed, user: str, *options: str, wrap: str = "sleep 300") -> Iterator[str]:
    """A running job; cancelled and gone at the end. Yields its id."""
    argv = ["sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={wrap}"]
    done = bed.run(LOGIN, argv, user=user, check=True)
    number = done.stdout.strip()
    try:
        bed.wait_for(f"job {number} to run", lambda: state_of(bed, number) == "RUNNING")
        yield number
    finally:
        bed.run(LOGIN, ["scancel", number])
        bed.wait_for("the end of the job", lambda: state_of(bed, number) in ("CANCELLED", ""))


def state_of(bed: Bed, number: str) -> str:
    done = bed.run(LOGIN, ["squeue", "--noheader", "--states=all", f"--jobs={number}", "-o%T"])
    return done.stdout.strip()


def over_ssh(bed: Bed, user: str, host: str, command: str) -> subprocess.CompletedProcess[str]:
    return bed.run(HUB, [*bed.ssh_argv(user, host), command], timeout=40)


def test_sbatch_over_ssh_with_a_certificate(bed: Bed) -> None:
    modules = "module load gcc/12.3 openmpi python"
    text = f"#!/bin/bash -l\\n{modules}\\nenv | grep ^LANDFALL_TEST_; hostname\\n"
    command = f"printf '{text}' | sbatch --parsable --wait --output=out.txt"
    done = over_ssh(bed, "alice", LOGIN, command)
    assert done.returncode == 0, done.stderr
    number = done.stdout.strip()
    out = (bed.home / "alice" / "out.txt").read_text().split()
    assert "LANDFALL_TEST_MODULE=python-3.11" in out
    assert "LANDFALL_TEST_MPI=openmpi-4.1" in out
    assert out[-1] in COMPUTE
    argv = ["sacct", "-nXP", "-j", number, "-o", "JobID,State,Account,QOS"]
    line = f"{number}|COMPLETED|def-alice|normal"
    bed.wait_for("sacct", lambda: bed.run(LOGIN, argv, user="alice").stdout.strip() == line)


def test_modules_over_ssh(bed: Bed) -> None:
    done = over_ssh(bed, "alice", LOGIN, "bash -lc 'module -t avail; module -t list'")
    assert "python/3.11" in done.stderr
    assert "openmpi" not in done.stderr
    assert done.stderr.split()[-1] == "StdEnv/2023"
    for name, word in (("broken", "broken"), ("failing", "licence"), ("nosuch", "unknown")):
        done = over_ssh(bed, "alice", LOGIN, f"bash -lc 'module load {name}'")
        assert done.returncode != 0
        assert word in done.stderr
    done = over_ssh(bed, "alice", LOGIN, "bash -lc 'module load python conflicting'")
    assert done.returncode != 0


def test_hub_reaches_the_login_node_only(bed: Bed) -> None:
    with bed.network(HUB):
        with socket.create_connection((bed.address(LOGIN), 22), timeout=5) as connection:
            assert connection.recv(4) == b"SSH-"
        for host in COMPUTE:
            with pytest.raises(OSError, match="unreachable"):
                socket.create_connection((bed.address(host, LOGIN), 22), timeout=5)
    # Not even when the hub sends such packets to the login node: it forwards nothing.
    route = ["ip", "route", "replace", "10.77.2.0/24", "via", bed.address(LOGIN)]
    bed.run(HUB, route, check=True)
    try:
        with bed.network(HUB), pytest.raises(OSError, match="timed out"):
            socket.create_connection((bed.address("c1", LOGIN), 22), timeout=1)
    finally:
        bed.run(HUB, ["ip", "route", "del", "10.77.2.0/24"], check=True)
    assert bed.run(HUB, ["id", "alice"]).returncode != 0
    assert bed.run(HUB, ["ls", "/home"]).stdout == ""
    with pytest.raises(KeyError):
        bed.address("c1")


def test_hosts_are_apart(bed: Bed) -> None:
    names = {bed.run(host, ["hostname"]).stdout.strip() for host in HOSTS}
    assert names == set(HOSTS)
    for directory in ("/tmp", "/run", "/dev/shm"):
        bed.run(LOGIN, ["touch", f"{directory}/here"], check=True)
        assert bed.run("c1", ["test", "-e", f"{directory}/here"]).returncode == 1
        assert not Path(directory, "here").exists()
    assert bed.run("c2", ["test", "-d", "/home/alice"]).returncode == 0
    assert bed.run(HUB, ["ls", str(bed.home)]).stdout == ""
    assert bed.run("c1", ["ls", str(bed.user_ca_key.parent), str(bed.hub_files)]).returncode == 0
    assert bed.run("c1", ["test", "-e", str(bed.user_ca_key)]).returncode == 1


def test_tunnel_account_forwards_and_does_nothing_else(bed: Bed) -> None:
    assert over_ssh(bed, "tunnel", LOGIN, "id").returncode == 1
    done = bed.run(HUB, [*bed.ssh_argv("tunnel", LOGIN), "-W", "c1:22"], timeout=3, input="")
    assert done.stdout.startswith("SSH-2.0-")


def test_compute_node_admits_while_a_job_runs(bed: Bed) -> None:
    denied = over_ssh(bed, "alice", "c1", "hostname")
    assert denied.returncode == 255
    assert "Permission denied" in denied.stderr
    with job(bed, "alice", "--nodelist=c1"):
        assert over_ssh(bed, "alice", "c1", "hostname").stdout == "c1\n"
        assert over_ssh(bed, "alice", "c2", "hostname").returncode == 255
        assert over_ssh(bed, "bob", "c1", "hostname").returncode == 255
        session = bed.popen(HUB, [*bed.ssh_argv("alice", "c1"), "sleep 200"])
    # The end of the job ends the sessions on its node.
    assert session.wait(20) == 255
    session.communicate()
    assert over_ssh(bed, "alice", "c1", "hostname").returncode == 255


def test_own_keys_meet_the_same_rule(bed: Bed) -> None:
    key = bed.hub_files / "own_key"
    make_key(key, "own")
    directory = bed.home / "carol" / ".ssh"
    directory.mkdir(mode=0o700)
    (directory / "authorized_keys").write_text(Path(f"{key}.pub").read_text())
    for path in (directory, directory / "authorized_keys"):
        shutil.chown(path, 6003, 6003)
    try:
        argv = [*bed.ssh_argv("carol", "c3", key=key), "hostname"]
        assert bed.run(HUB, [*bed.ssh_argv("carol", LOGIN, key=key), "true"]).returncode == 0
        assert bed.run(HUB, argv).returncode == 255
        with job(bed, "carol", "--partition=small"):
            assert bed.run(HUB, argv).stdout == "c3\n"
    finally:
        shutil.rmtree(directory)


ECHO = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("listening", flush=True)
connection, _ = server.accept()
connection.sendall(connection.recv(100).upper())
"""
CALL = """
import os, socket, stat, sys
path = sys.argv[1]
client = socket.socket(socket.AF_UNIX)
client.connect(path)
client.sendall(b"hello")
print(client.recv(100).decode(), oct(stat.S_IMODE(os.stat(path).st_mode)))
"""


@pytest.mark.parametrize("direction", ["-L", "-R"])
def test_unix_sockets_are_forwarded(bed: Bed, direction: str) -> None:
    near, far = str(bed.scratch / f"near{direction}.sock"), f"/tmp/far{direction}.sock"
    hub, node = (HUB, None), ("c2", "alice")
    listens, calls = ((near, far), (node, hub)) if direction == "-L" else ((far, near), (hub, node))
    with job(bed, "alice", "--nodelist=c2"):
        (server_host, server_user), (client_host, client_user) = calls
        echo = ["/usr/bin/python3", "-c", ECHO, listens[1]]
        server = bed.popen(server_host, echo, user=server_user)
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        options = ["-N", direction, f"{listens[0]}:{listens[1]}", "-oExitOnForwardFailure=yes"]
        tunnel = bed.popen(HUB, bed.ssh_argv("alice", "c2", *options))
        exists = ["test", "-S", listens[0]]
        bed.wait_for("the socket", lambda: bed.run(client_host, exists).returncode == 0)
        call = ["/usr/bin/python3", "-c", CALL, listens[0]]
        done = bed.run(client_host, call, user=client_user)
        assert done.stdout == "HELLO 0o600\n", done.stderr
        tunnel.terminate()
        for process in (server, tunnel):
            process.communicate(timeout=10)


def test_cut_and_heal(bed: Bed) -> None:
    assert over_ssh(bed, "alice", LOGIN, "true").returncode == 0
    target = (bed.address(LOGIN), 22)
    bed.cut(HUB, LOGIN)
    try:
        with bed.network(HUB), pytest.raises(TimeoutError):
            socket.create_connection(target, timeout=1)
        assert bed.run(LOGIN, ["scontrol", "ping"]).returncode == 0
    finally:
        bed.heal(HUB, LOGIN)
    with bed.network(HUB), socket.create_connection(target, timeout=5):
        pass
    bed.heal(HUB, LOGIN)


def test_connections_can_be_dropped(bed: Bed) -> None:
    session = bed.popen(HUB, [*bed.ssh_argv("bob", LOGIN), "echo here; sleep 200"])
    assert session.stdout is not None
    assert session.stdout.readline() == b"here\n"
    assert bed.drop_connections(LOGIN) >= 1
    assert session.wait(10) == 255
    session.communicate()
    assert over_ssh(bed, "bob", LOGIN, "true").returncode == 0


def test_users_can_run_this_python(bed: Bed) -> None:
    argv = [str(bed.python), "-c", "import asyncssh, sys; print(sys.prefix)"]
    with job(bed, "alice", "--nodelist=c1"):
        assert bed.run("c1", argv, user="alice").stdout == f"{sys.prefix}\n"


def test_daemons_can_be_stopped_killed_and_paused(bed: Bed) -> None:
    bed.kill(LOGIN, "sshd")
    assert not bed.is_running(LOGIN, "sshd")
    with bed.network(HUB), pytest.raises(ConnectionRefusedError):
        socket.create_connection((bed.address(LOGIN), 22), timeout=5)
    bed.start(LOGIN, "sshd")
    assert over_ssh(bed, "alice", LOGIN, "true").returncode == 0
    bed.pause(LOGIN, "slurmdbd")
    bed.resume(LOGIN, "slurmdbd")
    bed.stop(LOGIN, "slurmctld")
    bed.start(LOGIN, "slurmctld")
    bed.run(LOGIN, ["sbatch", "--output=/dev/null", "--wrap=sleep 300"], user="bob", check=True)
    bed.reset()
    with pytest.raises(BedError):
        bed.kill(HUB, "sshd")


def test_memory_limit(bed: Bed) -> None:
    eat = "python3 -c 'x = bytearray(400 << 20); import time; time.sleep(30)'"
    argv = ["sbatch", "--parsable", "--output=/dev/null", "--mem=50M", f"--wrap={eat}"]
    number = bed.run(LOGIN, argv, user="bob", check=True).stdout.strip()
    end = "OUT_OF_MEMORY" if bed.kernel_limits_memory else "FAILED"
    bed.wait_for("the job's death", lambda: state_of(bed, number) == end)


def test_limits_are_enforced(bed: Bed) -> None:
    for option in ("--account=def-carol", "--qos=nope", "--partition=long"):
        argv = ["sbatch", "--parsable", option, "--wrap=true"]
        assert bed.run(LOGIN, argv, user="alice").returncode == 1, option
    bob = bed.run(LOGIN, ["sbatch", "-plong", "--output=/dev/null", "--wrap=true"], user="bob")
    assert bob.returncode == 0, bob.stderr


def test_a_new_user_can_work_at_once(bed: Bed) -> None:
    person = bed.add_user("newcomer")
    with job(bed, person.name, "--nodelist=c1"):
        assert over_ssh(bed, "newcomer", "c1", "id -un").stdout == "newcomer\n"


def test_private_jobs_are_seen_by_the_observer_only(bed: Bed) -> None:
    def seen(user: str) -> str:
        return bed.run(LOGIN, ["squeue", "--noheader", "-o%i"], user=user).stdout.strip()

    with job(bed, "alice") as number:
        assert seen("bob") == number
        bed.configure_slurm("PrivateData=jobs")
        try:
            assert (seen("alice"), seen("observer"), seen("bob")) == (number, number, "")
        finally:
            bed.configure_slurm()
        assert seen("bob") == number


UP_AND_DIE = """
import os, signal, sys
from tests.testbed import Bed
bed = Bed.up(sys.argv[1])
bed.run("login", ["sbatch", "--output=/dev/null", "--wrap=sleep 300"], user="alice", check=True)
bed.popen("hub", ["sleep", "300"])
print("up", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_even_after_a_crash(bed: Bed) -> None:
    """Also: two beds at once."""
    run_id = f"x{os.getpid() % 100_000}"
    layout = layout_of(run_id)
    done = subprocess.run(
        [sys.executable, "-c", UP_AND_DIE, run_id],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "up\n"), done.stderr
    assert {run_id, bed.run_id} <= set(list_beds())
    networks = {inode_of(f"/run/netns/{layout.namespace(host)}") for host in HOSTS}
    assert run_id in remove_stale()
    assert run_id not in list_beds()
    assert not layout.state.exists()
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"lf-{run_id}-" not in named.stdout
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            assert inode_of(f"{entry}/ns/net") not in networks - {None}
    assert run_id not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/slurm_*/uid_*/job_{layout.first_job_id}"))
    assert bed.is_idle()

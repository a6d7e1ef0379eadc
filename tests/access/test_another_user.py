"""bob on the login node and on alice's compute node; and what lies there for root to see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import ALICE, Scene

PLACES = ["/tmp", "/run", "/var/tmp", "/dev/shm", "/home", "/var/log", "/var/spool", "/etc"]
# Prints what happens when bob connects to each unix socket of argv.
CONNECT = """
import socket, sys
for path in sys.argv[1:]:
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.connect(path)
        print("connected", path)
    except OSError as error:
        print(type(error).__name__, path)
"""


@pytest.fixture(params=["login", "node"])
def host(request: pytest.FixtureRequest, scene: Scene) -> str:
    return "login" if request.param == "login" else scene.job.node


def walk(scene: Scene, host: str, *tests: str, user: str | None = None) -> list[str]:
    """Paths on a host's own file systems for which find(1), run by ``user``, says yes."""
    places = [*PLACES, str(scene.bed.layout.state)]
    done = scene.bed.run(host, ["find", *places, *tests, "-print"], user=user, timeout=60)
    return sorted(set(done.stdout.split("\n")) - {""})


async def test_bob_is_really_there(scene: Scene) -> None:
    argv = scene.bed.ssh_argv("bob", scene.job.node)
    done = scene.bed.run("hub", [*argv, "id -un; hostname"])
    assert done.stdout.split() == ["bob", scene.job.node], done.stderr


async def test_no_file_of_alice_is_readable(scene: Scene, host: str) -> None:
    # A bed that other suites have used holds files of other jobs of alice's.
    since = ["-newermt", f"@{scene.begun}"]
    theirs = ["-user", "alice", *since, "(", "-readable", "-o", "-writable", ")"]
    own = walk(scene, host, "-user", "alice", *since, "-type", "f")
    assert host == "login" or own, "root finds files of alice's session: the walk looks somewhere"
    assert walk(scene, host, *theirs, user="bob") == []


async def test_no_unix_socket_can_be_connected(scene: Scene, host: str) -> None:
    listed = scene.bed.run(host, ["ss", "-xlpH"], check=True).stdout
    processes = {one.process.pid for one in scene.bed.processes(host, uid=ALICE)}
    ours = [
        line
        for line in listed.splitlines()
        if {int(pid) for pid in re.findall(r"pid=(\d+)", line)} & processes
    ]
    names = [re.split(r"\s+", line)[4] for line in ours]
    assert not [name for name in names if name.startswith("@")], "abstract: open to everybody"
    found = walk(scene, host, "-user", "alice", "-type", "s")
    paths = sorted({*found, *(name for name in names if name.startswith("/"))})
    if host == "login":
        assert paths == []
        return
    assert any(path.endswith("/nb.sock") for path in paths), paths
    assert any(path.endswith("/hub.sock") for path in paths), paths
    argv = [str(scene.bed.python), "-I", "-c", CONNECT, *paths]
    said = scene.bed.run(host, argv, user="bob", check=True).stdout.splitlines()
    assert said == [f"PermissionError {path}" for path in paths]
    # The look itself can find an open door: alice connects.
    said = scene.bed.run(host, argv, user="alice", check=True).stdout.splitlines()
    assert "connected" in {line.split()[0] for line in said}


async def test_no_tcp_port_listens(scene: Scene, host: str) -> None:
    listed = scene.bed.run(host, ["ss", "-ltnepH"], check=True).stdout.splitlines()
    ours = [line for line in listed if re.search(r"\buid:(6001|6100|6101)\b", line)]
    if host == "login":
        assert ours == []
        return
    # ipykernel with transport=ipc listens on one port of 127.0.0.1 all the same.
    assert all("ipykernel" in _owner(line) for line in ours), ours
    assert len(ours) <= 1, ours
    assert all(line.split()[3].startswith("127.0.0.1:") for line in ours)


def _owner(line: str) -> str:
    found = re.search(r"pid=(\d+)", line)
    assert found, line
    return Path(f"/proc/{found[1]}/cmdline").read_bytes().replace(b"\0", b" ").decode()


async def test_the_residue_of_ipykernel_takes_nothing_from_others(scene: Scene) -> None:
    """The one port: a pipe inside the kernel, for output of its child processes.

    ipykernel binds it to TCP whatever the transport. It drops what does not begin with 16 random
    bytes that only the kernel's own children know.
    """
    listed = scene.bed.run(scene.job.node, ["ss", "-ltneH"], check=True).stdout.splitlines()
    ports = [line.split()[3].rpartition(":")[2] for line in listed if "uid:6001" in line]
    # Should there be none any more, the residue is gone: say so in the documentation.
    assert len(ports) == 1, listed
    pipe = "get_ipython().kernel.iopub_thread._pipe_port"
    assert await scene.kernel.run(pipe) == ports[0]
    forger = scene.bed.scratch / "forger.py"
    forger.write_text(FORGER)
    argv = [str(scene.bed.python), "-I", str(forger), ports[0], "none"]
    scene.bed.run(scene.job.node, argv, user="bob", check=True)
    assert "forged" not in await scene.kernel.run("import time; time.sleep(1)")
    assert await scene.kernel.run("6*7") == "42"


# Pushes a message that claims to be output of the kernel: argv is the port and the pipe's bytes.
FORGER = """
import json, sys, zmq
channel = zmq.Context().socket(zmq.PUSH)
channel.connect(f"tcp://127.0.0.1:{sys.argv[1]}")
word = b"guess" if sys.argv[2] == "none" else bytes.fromhex(sys.argv[2])
header = {"msg_id": "1", "msg_type": "stream", "username": "", "session": "1", "version": "5.3",
          "date": "2026-01-01T00:00:00Z"}
content = {"name": "stdout", "text": "forged"}
parts = [json.dumps(part).encode() for part in (header, header, {}, content)]
channel.send_multipart([word, b"stream.stdout", b"<IDS|MSG>", b"0" * 64, *parts])
channel.close(linger=2000)
"""


async def test_processes_show_no_secret(scene: Scene, host: str) -> None:
    # argv as root sees it: everything that any user could see, and more.
    everything = scene.bed.run(host, ["ps", "-e", "-ww", "-o", "args"], check=True).stdout
    assert "jupyterhub-singleuser" in everything
    assert scene.find_secrets(everything) == []
    script = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'"
    seen = scene.bed.run(host, ["bash", "-c", script], user="bob", timeout=60).stdout
    assert "USER=bob" in seen
    assert scene.find_secrets(seen) == []
    for found in scene.bed.processes(host, uid=ALICE):
        done = scene.bed.run(host, ["cat", f"/proc/{found.process.pid}/environ"], user="bob")
        assert done.returncode != 0


@pytest.mark.parametrize("user", ["bob", "observer", None])
async def test_the_scheduler_shows_no_secret(scene: Scene, user: str | None) -> None:
    job = scene.job.id
    said = ""
    for argv in (
        ["scontrol", "show", "job", "-dd", job],
        ["squeue", "-o", "%all"],
        ["squeue", "--json"],
        ["sacct", "--parsable2", "--allusers", "--format=ALL", f"--jobs={job}"],
        ["sacct", "--json", f"--jobs={job}"],
        ["sacct", "--batch-script", f"--jobs={job}"],
        ["sacct", "--env-vars", f"--jobs={job}"],
        ["scontrol", "write", "batch_script", job, "-"],
    ):
        done = scene.bed.run("login", argv, user=user)
        said += done.stdout + done.stderr
    assert job in said
    assert scene.find_secrets(said) == []


async def test_spool_and_logs_hold_no_secret(scene: Scene) -> None:
    places = {
        "spool": scene.bed.layout.spool("slurmctld").parent,
        "bed's logs": scene.bed.layout.logs,
        "gateway's logs": scene.gateway.settings.state_directory / "logs",
        "signer": scene.gateway.directory / "signer",
        "accounting": scene.bed.layout.mariadb,
        "home": scene.bed.home / "alice",
    }
    looked = 0
    for place in places.values():
        for path in place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                looked += 1
                words = path.read_bytes().decode("latin-1")
                assert scene.find_secrets(words) == [], path
    assert looked > 20


async def test_the_connectors_state_is_sealed(scene: Scene) -> None:
    """The database holds tokens, encrypted; the file itself is its owner's only."""
    state = scene.gateway.settings.state_directory
    assert state.stat().st_mode & 0o777 == 0o700
    for path in state.glob("connector.sqlite*"):
        assert path.stat().st_mode & 0o077 == 0, path
        assert scene.find_secrets(path.read_bytes().decode("latin-1")) == []


async def test_nothing_of_the_gateway_is_open_on_the_hub_host(scene: Scene) -> None:
    """As an account of the hub host that is not the gateway's."""
    directory = scene.gateway.directory
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    find = ["find", str(directory), "-type", "f", "(", "-readable", "-o", "-writable", ")"]
    done = scene.bed.run("hub", [*argv, *find])
    readable = {Path(line).name for line in done.stdout.split()}
    assert readable <= {"testbed.yml", "people.yml", "allow.yml"}, readable
    sockets = [
        scene.gateway.settings.connector_socket,
        scene.gateway.settings.signer_socket,
        *scene.gateway.settings.runtime_directory.rglob("*.sock"),
    ]
    done = scene.bed.run(
        "hub", [*argv, str(scene.bed.python), "-I", "-c", CONNECT, *map(str, sockets)]
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"PermissionError"}

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
    theirs = ["-user", "alice", "(", "-readable", "-o", "-writable", ")"]
    own = walk(scene, host, "-user", "alice", "-type", "f")
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


async def test_the_residue_of_ipykernel_does_nothing_without_the_key(scene: Scene) -> None:
    listed = scene.bed.run(scene.job.node, ["ss", "-ltneH"], check=True).stdout.splitlines()
    ports = [line.split()[3].rpartition(":")[2] for line in listed if "uid:6001" in line]
    assert await scene.kernel.run("marker = 'untouched'") == ""
    for port in ports:
        argv = [str(scene.bed.python), "-I", str(_forger(scene)), port]
        done = scene.bed.run(scene.job.node, argv, user="bob", timeout=40)
        assert done.stdout.split() == ["silence"], (done.stdout, done.stderr)
    assert await scene.kernel.run("marker") == "'untouched'"


def _forger(scene: Scene) -> Path:
    """A program that sends well-formed requests with a wrong signature, as any local user could."""
    path = scene.bed.scratch / "forger.py"
    path.write_text(
        """
import hashlib, hmac, json, sys, zmq

context = zmq.Context()
heard = False
for kind in (zmq.DEALER, zmq.REQ, zmq.SUB):
    channel = context.socket(kind)
    channel.linger = 0
    if kind == zmq.SUB:
        channel.subscribe(b"")
    channel.connect(f"tcp://127.0.0.1:{sys.argv[1]}")
    if kind != zmq.SUB:
        header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "1",
                  "version": "5.3", "date": "2026-01-01T00:00:00Z"}
        content = {"code": "marker = 'forged'", "silent": False, "store_history": False,
                   "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        for key in (b"", b"guess"):
            sign = hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
            if kind == zmq.DEALER or key == b"":
                channel.send_multipart([b"<IDS|MSG>", sign if key else b"", *parts])
    while channel.poll(2500):
        answer = b"".join(channel.recv_multipart())
        heard = heard or b"execute_reply" in answer or b"status" in answer
print("heard" if heard else "silence")
"""
    )
    path.chmod(0o644)
    return path


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

"""The signer's process, asked over its socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, GatewayError
from gateway.settings import Settings
from gateway.signer.allow_list import AllowListFile
from gateway.signer.audit import AuditLog
from gateway.signer.authority import generate_authority, load_authority
from gateway.signer.client import SignerClient
from gateway.signer.server import (
    LINE_LIMIT,
    RateBound,
    Signer,
    build_signer,
    check_not_root,
    serve_signer,
)

ALLOW = "clusters: {perun: {users: [alice], observer: [watcher], tunnel: [mole]}}\n"
PUBLIC = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


@dataclass
class Running:
    directory: Path
    client: SignerClient
    socket: Path
    allow_list: Path
    audit: Path
    public: str

    def audited(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    async def sign(self, principal: str = "alice", role: str = "user") -> str:
        return await self.client.sign(
            public_key=PUBLIC, cluster="perun", role=role, principal=principal, forwarding=False
        )


def build(
    directory: Path, *, clients: frozenset[int] | None = None, rate: RateBound | None = None
) -> Signer:
    allow_list = directory / "allow.yml"
    allow_list.write_text(ALLOW)
    allow_list.chmod(0o644)
    generate_authority(directory / "ca")
    return Signer(
        authority=load_authority(directory / "ca"),
        allow_list=AllowListFile(allow_list),
        audit=AuditLog(directory / "audit.jsonl"),
        clients=clients if clients is not None else frozenset({os.geteuid()}),
        lifetime=timedelta(minutes=2),
        source_addresses=(),
        rate=rate or RateBound(100, 10.0),
    )


@contextlib.asynccontextmanager
async def run(signer: Signer, directory: Path, *, shared: bool = False) -> AsyncIterator[Running]:
    socket = directory / "signer.sock"
    task = asyncio.ensure_future(serve_signer(signer, socket, shared=shared))
    async with asyncio.timeout(5):
        while not socket.exists():
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
    yield Running(
        directory=directory,
        client=SignerClient(socket),
        socket=socket,
        allow_list=directory / "allow.yml",
        audit=directory / "audit.jsonl",
        public=(directory / "ca.pub").read_text().strip(),
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not socket.exists()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with run(build(tmp_path), tmp_path) as signer:
        yield signer


async def test_signs_and_audits(running: Running) -> None:
    certificate = asyncssh.import_certificate(await running.sign())
    certificate.validate(asyncssh.public_key.CERT_TYPE_USER, "alice")  # type: ignore[attr-defined]
    assert stat.S_IMODE(running.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.audit.stat().st_mode) == 0o600
    (entry,) = running.audited()
    assert entry["outcome"] == "signed"
    assert entry["principal"] == "alice"
    assert entry["peer_uid"] == os.geteuid()
    assert int(str(entry["serial"]), 16) > 0
    assert str(entry["key"]).startswith("SHA256:")


async def test_refusals_are_audited(running: Running) -> None:
    for principal, role in (("root", "user"), ("bob", "user"), ("alice", "tunnel")):
        with pytest.raises(ClusterRefused) as caught:
            await running.sign(principal, role)
        assert caught.value.reason == "signer_refused"
        assert caught.value.user_message.render("fr") != caught.value.user_message.render("en")
    assert [(e["outcome"], e["principal"]) for e in running.audited()] == [
        ("refused", "root"),
        ("refused", "bob"),
        ("refused", "alice"),
    ]


async def test_changed_allow_list_counts_at_once(running: Running) -> None:
    with pytest.raises(ClusterRefused):
        await running.sign("bob")
    running.allow_list.write_text(ALLOW.replace("[alice]", "[alice, bob]"))
    assert await running.sign("bob")
    for content, why in (
        ("clusters: [", "not understood"),
        ("clusters: {perun: {people: []}}", "not understood"),
        ("clusters: {}\nclusters: {}", "not understood"),
    ):
        running.allow_list.write_text(content)
        with pytest.raises(ConfigurationError, match=why):
            await running.sign("alice")
    running.allow_list.write_text("")
    with pytest.raises(ClusterRefused):
        await running.sign("alice")
    running.allow_list.write_text(ALLOW)
    running.allow_list.chmod(0o666)
    with pytest.raises(ConfigurationError, match="chmod go-w"):
        await running.sign("alice")
    running.allow_list.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await running.sign("alice")


async def test_nothing_is_signed_without_audit(running: Running) -> None:
    running.audit.mkdir()
    with pytest.raises(ConfigurationError, match="signs nothing"):
        await running.sign()
    running.audit.rmdir()
    running.audit.touch()
    running.audit.chmod(0o644)
    with pytest.raises(ConfigurationError) as caught:
        await running.sign()
    assert caught.value.reason == "audit_log"


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b"[1]\n", b'{"role": 1}\n', b"\xff\xfe\n", b"null\n"]
)
async def test_nonsense_is_refused(running: Running, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(running.socket))
    writer.write(line)
    answer = json.loads(await reader.readline())
    assert answer["error"]["kind"] == "refused"
    assert running.audited()[0]["outcome"] == "refused"
    writer.close()


async def test_endless_line_is_cut(running: Running) -> None:
    reader, writer = await asyncio.open_unix_connection(str(running.socket))
    with contextlib.suppress(OSError):
        writer.write(b"x" * (LINE_LIMIT * 40))
        await writer.drain()
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    assert await running.sign()


async def test_other_peers_are_refused(tmp_path: Path) -> None:
    other = frozenset({os.geteuid() + 1})
    async with run(build(tmp_path, clients=other), tmp_path, shared=True) as running:
        assert stat.S_IMODE(running.socket.stat().st_mode) == 0o660
        with pytest.raises(ClusterRefused) as caught:
            await running.sign()
        assert caught.value.reason == "signer_client"
        assert running.audited()[0]["reason"] == "signer_client"


async def test_rate_is_bounded(tmp_path: Path) -> None:
    async with run(build(tmp_path, rate=RateBound(2, 0.0)), tmp_path) as running:
        await running.sign()
        await running.sign()
        with pytest.raises(ClusterUnavailable) as caught:
            await running.sign()
        assert caught.value.reason == "signer_busy"


def test_rate_refills() -> None:
    now = 0.0
    bound = RateBound(2, 0.5, clock=lambda: now)
    assert [bound.take() for _ in range(3)] == [True, True, False]
    now = 2.0
    assert [bound.take() for _ in range(2)] == [True, False]


async def test_many_at_once(running: Running) -> None:
    lines = await asyncio.gather(*(running.sign() for _ in range(80)))
    assert len(set(lines)) == 80


async def test_second_signer_does_not_take_the_socket(running: Running) -> None:
    other = running.directory / "other"
    other.mkdir()
    with pytest.raises(ConfigurationError) as caught:
        await serve_signer(build(other), running.socket)
    assert "another signer" in caught.value.detail
    assert await running.sign()


async def test_absent_signer_is_unavailable(tmp_path: Path) -> None:
    client = SignerClient(tmp_path / "none.sock")
    with pytest.raises(ClusterUnavailable) as caught:
        await client.sign(
            public_key=PUBLIC, cluster="c", role="user", principal="alice", forwarding=False
        )
    assert caught.value.reason == "signer_unavailable"


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\n", b"{}\n", b"x" * 40_000, None],
)
async def test_strange_answers_are_unavailable(tmp_path: Path, answer: bytes | None) -> None:
    done = asyncio.Event()

    async def strange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is not None:
            writer.write(answer)
        else:
            await reader.read()  # until the client gives up
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        done.set()

    server = await asyncio.start_unix_server(strange, str(tmp_path / "s"))
    async with server:
        client = SignerClient(tmp_path / "s", timeout_seconds=0.5)
        with pytest.raises(GatewayError) as caught:
            await client.sign(
                public_key=PUBLIC, cluster="c", role="user", principal="alice", forwarding=False
            )
        assert caught.value.reason == "signer_unavailable"
        await asyncio.wait_for(done.wait(), 5)


def settings(directory: Path, **signer: object) -> Settings:
    return Settings.model_validate(
        {
            "state_directory": directory,
            "runtime_directory": directory,
            "profiles_directory": directory,
            "sign_in": {"kind": "pam"},
            "signer": signer,
        }
    )


def test_missing_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"signer.ca_key, signer.audit_log"):
        build_signer(settings(tmp_path, allow_list=tmp_path / "allow.yml"))


def test_root_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_not_root(0)
    assert caught.value.reason == "root"
    check_not_root(1)


SERVE = """
import asyncio, sys
from pathlib import Path
from gateway.settings import Settings
from gateway.signer.server import serve
d = Path(sys.argv[1])
asyncio.run(serve(Settings.model_validate({
    "state_directory": d, "runtime_directory": d, "profiles_directory": d,
    "sign_in": {"kind": "pam"},
    "signer": {"ca_key": d / "ca", "allow_list": d / "allow.yml", "audit_log": d / "audit",
               "clients": [int(n) for n in sys.argv[2:]]},
})))
"""


async def test_process_of_its_own() -> None:
    """The whole process under an unprivileged account; as root the tests use uid 65534."""
    directory = Path(tempfile.mkdtemp(prefix="landfall-signer-", dir="/tmp"))
    uid = os.geteuid() or 65534
    try:
        generate_authority(directory / "ca")
        (directory / "allow.yml").write_text(ALLOW)
        (directory / "allow.yml").chmod(0o644)
        if uid != os.geteuid():
            for path in (directory, directory / "ca"):
                os.chown(path, uid, uid)
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(directory), str(os.geteuid())],
            cwd=Path(__file__).parents[3],
            stderr=subprocess.PIPE,
            **({"user": uid, "group": uid, "extra_groups": []} if uid != os.geteuid() else {}),  # type: ignore[call-overload]
        )
        try:
            client = SignerClient(directory / "signer.sock")
            deadline = time.monotonic() + 20
            while True:
                try:
                    line = await client.sign(
                        public_key=PUBLIC,
                        cluster="perun",
                        role="tunnel",
                        principal="mole",
                        forwarding=True,
                    )
                    break
                except ClusterUnavailable:
                    assert process.poll() is None, process.stderr.read()
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
            asyncssh.import_certificate(line)
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            assert "Max core file size        0 " in limits
        finally:
            process.terminate()
            process.wait(timeout=10)
            process.stderr.close()
    finally:
        shutil.rmtree(directory)


def test_serve_as_root_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be refused")
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert "does not run as root" in done.stderr

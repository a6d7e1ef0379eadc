"""The signer's process: a unix socket, one JSON line in, one out, one request a connection.

Request: ``{"public_key", "cluster", "role", "principal", "forwarding"}``. Answer:
``{"certificate": "ssh-ed25519-cert-v01@openssh.com …"}`` or
``{"error": {"kind": "refused|configuration|busy", "reason", "message": {"en", "fr"}, "detail"}}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import secrets
import socket
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncssh
from pydantic import ValidationError

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, GatewayError
from gateway.settings import Settings
from gateway.signer.allow_list import AllowListFile
from gateway.signer.audit import AuditLog
from gateway.signer.authority import certify, load_authority
from gateway.signer.policy import SignRequest, check_request, refuse
from gateway.text import text

log = logging.getLogger(__name__)

LINE_LIMIT: Final = 8 * 1024
ASK_SECONDS: Final = 5.0
CONNECTIONS: Final = 64
# A class of 500 that starts at once asks for about 1000 certificates.
BURST: Final = 400
PER_SECOND: Final = 20.0
_PEER: Final = struct.Struct("3i")


class RateBound:
    """A token bucket: ``burst`` at once, then ``per_second``."""

    def __init__(
        self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def take(self) -> bool:
        """Return whether one more is within the bound."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of the socket (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int


class Signer:
    """Decides, signs and writes the audit line; knows no socket."""

    def __init__(
        self,
        *,
        authority: asyncssh.SSHKey,
        allow_list: AllowListFile,
        audit: AuditLog,
        clients: frozenset[int],
        lifetime: timedelta,
        source_addresses: tuple[str, ...],
        rate: RateBound,
    ) -> None:
        self._authority = authority
        self._allow_list = allow_list
        self._audit = audit
        self._clients = clients
        self._lifetime = lifetime
        self._source_addresses = source_addresses
        self._rate = rate
        self._audit_turn = asyncio.Lock()

    async def answer(self, line: bytes, peer: Peer) -> dict[str, Any]:
        """Return the answer to one request line; every outcome is in the audit log first."""
        entry: dict[str, str | int | bool] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "peer_uid": peer.uid,
            "peer_pid": peer.pid,
        }
        try:
            try:
                certificate = await self._sign(line, peer, entry)
            except GatewayError as error:
                entry.update(outcome="refused", reason=error.reason, why=error.detail[:300])
                await self._write(entry)
                raise
            await self._write(entry)
        except GatewayError as error:
            log.warning("nothing signed: %s", error)
            return {"error": _describe(error)}
        return {"certificate": certificate}

    async def _sign(self, line: bytes, peer: Peer, entry: dict[str, str | int | bool]) -> str:
        if peer.uid not in self._clients:
            raise refuse("this account may not ask the signer", "signer_client")
        if not self._rate.take():
            raise ClusterUnavailable(
                text("Too many sign-ins are asked for at once; try again in a moment."),
                reason="signer_busy",
            )
        try:
            request = SignRequest.model_validate_json(line)
        except ValidationError as exc:
            raise refuse(f"request not understood: {exc.error_count()} fault(s)") from exc
        entry.update(
            cluster=request.cluster,
            role=request.role,
            principal=request.principal,
            forwarding=request.forwarding,
        )
        allowed = await asyncio.to_thread(self._allow_list.read)
        check_request(allowed, request)
        serial = secrets.randbits(63)
        now = int(time.time())
        certificate = certify(
            self._authority,
            request,
            lifetime=self._lifetime,
            source_addresses=self._source_addresses,
            serial=serial,
            now=now,
        )
        entry.update(
            outcome="signed",
            serial=f"{serial:016x}",
            valid_before=now + int(self._lifetime.total_seconds()),
            key=asyncssh.import_public_key(request.public_key).get_fingerprint(),
        )
        return certificate

    async def _write(self, entry: dict[str, str | int | bool]) -> None:
        async with self._audit_turn:
            await asyncio.to_thread(self._audit.append, entry)


def build_signer(settings: Settings) -> Signer:
    """Check what the settings name and build the signer.

    :raises ConfigurationError: something is missing or not safe to use.
    """
    signer = settings.signer
    if signer.ca_key is None or signer.allow_list is None or signer.audit_log is None:
        missing = [
            f"signer.{key}"
            for key in ("ca_key", "allow_list", "audit_log")
            if getattr(signer, key) is None
        ]
        raise ConfigurationError(
            text("The signer needs {keys} in the settings.", keys=", ".join(missing))
        )
    allow_list = AllowListFile(signer.allow_list)
    allow_list.read()
    return Signer(
        authority=load_authority(signer.ca_key),
        allow_list=allow_list,
        audit=AuditLog(signer.audit_log),
        clients=frozenset(signer.clients or (os.geteuid(),)),
        lifetime=signer.lifetime,
        source_addresses=signer.source_addresses,
        rate=RateBound(BURST, PER_SECOND),
    )


def check_not_root(euid: int) -> None:
    """:raises ConfigurationError: the process runs as root."""
    if euid == 0:
        raise ConfigurationError(
            text(
                "The signer does not run as root. Start it under an account of its own that owns "
                "the authority's key."
            ),
            reason="root",
        )


async def serve(settings: Settings) -> None:
    """Serve until cancelled.

    :raises ConfigurationError: as root, or when something is missing or not safe to use.
    """
    check_not_root(os.geteuid())
    # A core file would hold the authority's key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signer = build_signer(settings)
    others = set(settings.signer.clients) - {os.geteuid()}
    await serve_signer(signer, settings.signer_socket, shared=bool(others))


async def serve_signer(signer: Signer, path: Path, *, shared: bool = False) -> None:
    """Serve ``signer`` at ``path`` until cancelled.

    The socket is 0600; with ``shared`` (clients of other accounts) it is 0660 and belongs to the
    group of its directory. In either case the peer's uid decides.
    """
    connections = asyncio.Semaphore(CONNECTIONS)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The stream server's own tasks: faults of ours end here, in the log, not in silence.
        try:
            async with connections, asyncio.timeout(ASK_SECONDS * 2):
                await _handle(signer, reader, writer)
        except (OSError, EOFError, ValueError) as exc:
            log.info("a client went away: %s", exc)
        finally:
            writer.close()

    listener = _bind(path, shared)
    try:
        server = await asyncio.start_unix_server(handle, sock=listener, limit=LINE_LIMIT)
        log.info("the signer listens at %s", path)
        async with server:
            await server.serve_forever()
    finally:
        listener.close()
        _remove(path)


async def _handle(
    signer: Signer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    peer_socket = writer.get_extra_info("socket")
    pid, uid, _ = _PEER.unpack(
        peer_socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    )
    async with asyncio.timeout(ASK_SECONDS):
        line = await reader.readline()
    answer = await signer.answer(line, Peer(pid, uid))
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()


def _bind(path: Path, shared: bool) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _check_unused(path)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if shared:
            os.chown(path, -1, path.parent.stat().st_gid)
            path.chmod(0o660)
    except OSError as exc:
        listener.close()
        raise ConfigurationError(
            text("The signer cannot make its socket {path}.", path=str(path)),
            detail=str(exc),
            reason="signer_socket",
        ) from exc
    return listener


def _check_unused(path: Path) -> None:
    """Remove a socket that a former run left; raise when a signer answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            _remove(path)
            return
        except FileNotFoundError:
            return
    raise OSError("another signer runs there")


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


def _describe(error: GatewayError) -> dict[str, Any]:
    kind = "refused"
    if isinstance(error, ConfigurationError):
        kind = "configuration"
    elif not isinstance(error, ClusterRefused):
        kind = "busy"
    return {
        "kind": kind,
        "reason": error.reason,
        "message": error.user_message.as_dict(),
        "detail": error.detail[:500],
    }

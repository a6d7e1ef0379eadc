"""Every way in which SSH fails, as a :class:`~gateway.errors.GatewayError` with plain words.

The table names every exception class of asyncssh (2.24); a test walks the module and fails on one
that is not in it. Meanings of channel-open codes: RFC 4254 section 5.1.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import asyncssh

from gateway.errors import ClusterRefused, ClusterUnavailable, GatewayError
from gateway.text import Text, Words, text


@dataclass(frozen=True, slots=True)
class Failure:
    """What becomes of an exception: ``template`` may use ``{where}``."""

    kind: type[GatewayError]
    reason: str
    template: Text


SIGN_IN: Final = Failure(
    ClusterRefused,
    "sign_in",
    text(
        "The sign-in was refused by {where}. An admin must check that the account exists there, "
        "that it trusts the gateway's certificates, and that the clocks agree."
    ),
)
SECOND_FACTOR: Final = Failure(
    ClusterRefused,
    "second_factor",
    text(
        "A second factor or a password was asked for by {where}, and the gateway has none. The "
        "cluster must offer a login host where the gateway's certificate alone signs in."
    ),
)
HOST_KEY: Final = Failure(
    ClusterRefused,
    "host_key",
    text(
        "The identity of {where} could not be verified: its host key is not the expected one. "
        "Nothing was sent. An admin must compare the key with the cluster's staff before "
        "changing known_hosts."
    ),
)
PROHIBITED: Final = Failure(
    ClusterRefused,
    "forwarding_prohibited",
    text(
        "Forwarding is prohibited by {where}. An admin must allow it there "
        "(AllowTcpForwarding, AllowStreamLocalForwarding) for the gateway's accounts."
    ),
)
LISTENER: Final = Failure(
    ClusterRefused,
    "listener_refused",
    text(
        "A forwarded socket could not be made by {where}: forwarding is prohibited, or the "
        "directory of the socket cannot be written."
    ),
)
CONNECT_FAILED: Final = Failure(
    ClusterUnavailable, "connect_failed", text("The far end could not be reached through {where}.")
)
TOO_MANY_SESSIONS: Final = Failure(
    ClusterUnavailable,
    "too_many_sessions",
    text(
        "No further session was allowed by {where}. If this stays, an admin should lower "
        "max_sessions in the cluster profile or raise MaxSessions of sshd."
    ),
)
SESSION_REFUSED: Final = Failure(
    ClusterRefused,
    "session_refused",
    text("Commands are not allowed for this account by {where}."),
)
UNSUPPORTED: Final = Failure(
    ClusterRefused,
    "unsupported",
    text("Something the gateway needs is not supported by the SSH server of {where}."),
)
NO_COMMON: Final = Failure(
    ClusterRefused,
    "no_common_algorithm",
    text("No cipher or key exchange that the gateway accepts is offered by {where}."),
)
LOST: Final = Failure(
    ClusterUnavailable, "connection_lost", text("The connection to {where} was lost.")
)
DROPPED: Final = Failure(
    ClusterUnavailable,
    "dropped",
    text(
        "The connection was closed before the sign-in by {where}. It may have too many new "
        "connections (MaxStartups), refuse this host, or have no host key of the kind that "
        "known_hosts names."
    ),
)
DISCONNECTED: Final = Failure(
    ClusterUnavailable, "disconnected", text("The connection was closed by {where}.")
)
PROTOCOL: Final = Failure(
    ClusterRefused,
    "protocol",
    text("The answer of {where} was not understood; it may not be an SSH server."),
)
TIMEOUT: Final = Failure(
    ClusterUnavailable, "timeout", text("No answer came from {where} in time.")
)
REFUSED: Final = Failure(
    ClusterUnavailable,
    "connection_refused",
    text("No SSH server is accepting connections on {where}."),
)
NAME_UNKNOWN: Final = Failure(
    ClusterUnavailable, "name_unknown", text("The name of {where} could not be looked up.")
)
UNREACHABLE: Final = Failure(
    ClusterUnavailable, "unreachable", text("A connection to {where} could not be made.")
)
CREDENTIAL: Final = Failure(
    ClusterRefused,
    "credential",
    text("A key or certificate for {where} could not be used."),
)
REMOTE_FILE: Final = Failure(
    ClusterRefused, "remote_file", text("A file operation failed on {where}.")
)
OPTIONS: Final = Failure(
    ClusterRefused,
    "ssh_options",
    text(
        "A connection to {where} could not be prepared. An admin must look at the login section "
        "of the cluster profile and at the gateway's log."
    ),
)
UNEXPECTED: Final = Failure(
    ClusterRefused, "unexpected", text("An answer of {where} was not expected.")
)

# Looked up along the method resolution order: the nearest class counts.
FAILURES: Final[dict[type[BaseException], Failure]] = {
    asyncssh.PermissionDenied: SIGN_IN,
    asyncssh.IllegalUserName: SIGN_IN,
    asyncssh.PasswordChangeRequired: SECOND_FACTOR,
    asyncssh.HostKeyNotVerifiable: HOST_KEY,
    asyncssh.KeyExchangeFailed: NO_COMMON,
    asyncssh.ProtocolNotSupported: UNSUPPORTED,
    asyncssh.ProtocolError: PROTOCOL,
    asyncssh.MACError: LOST,
    asyncssh.CompressionError: LOST,
    asyncssh.ConnectionLost: LOST,
    asyncssh.ServiceNotAvailable: DISCONNECTED,
    asyncssh.DisconnectError: DISCONNECTED,
    asyncssh.ChannelOpenError: CONNECT_FAILED,
    asyncssh.ChannelListenError: LISTENER,
    asyncssh.TimeoutError: TIMEOUT,
    asyncssh.ProcessError: UNEXPECTED,
    asyncssh.BreakReceived: UNEXPECTED,
    asyncssh.SignalReceived: UNEXPECTED,
    asyncssh.TerminalSizeChanged: UNEXPECTED,
    asyncssh.SFTPConnectionLost: LOST,
    asyncssh.SFTPNoConnection: LOST,
    asyncssh.SFTPError: REMOTE_FILE,
    asyncssh.ConfigParseError: CREDENTIAL,
    asyncssh.KeyEncryptionError: CREDENTIAL,
    asyncssh.KeyExportError: CREDENTIAL,
    asyncssh.KeyGenerationError: CREDENTIAL,
    asyncssh.KeyImportError: CREDENTIAL,
    asyncssh.Error: UNEXPECTED,
    TimeoutError: TIMEOUT,
    ConnectionRefusedError: REFUSED,
    ConnectionError: LOST,
    socket.gaierror: NAME_UNKNOWN,
    OSError: UNREACHABLE,
    EOFError: LOST,
    asyncio.LimitOverrunError: UNEXPECTED,
}

_CHANNEL_CODES: Final = {
    asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED: PROHIBITED,
    asyncssh.OPEN_CONNECT_FAILED: CONNECT_FAILED,
    asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE: UNSUPPORTED,
    asyncssh.OPEN_RESOURCE_SHORTAGE: TOO_MANY_SESSIONS,
    0xFFFFFFFF: SESSION_REFUSED,  # asyncssh's own: the server said no to "exec"
}

_DETAIL_LIMIT: Final = 400


def find_failure(exc: BaseException) -> Failure | None:
    """Return what ``exc`` means, or ``None`` when it is not a failure of SSH or the network."""
    if isinstance(exc, asyncssh.ChannelOpenError):
        return _CHANNEL_CODES.get(exc.code, CONNECT_FAILED)
    # sshd(8) says so with a plain disconnect when MaxAuthTries is used up.
    if isinstance(exc, asyncssh.DisconnectError) and "authentication failures" in exc.reason:
        return SIGN_IN
    for base in type(exc).__mro__:
        if base in FAILURES:
            return FAILURES[base]
    return None


def build_error(failure: Failure, where: Words, detail: str = "") -> GatewayError:
    """Build the error of ``failure``; ``where`` is a noun phrase such as "login node login1"."""
    return failure.kind(
        text(failure.template.template, where=where),
        detail=_printable(detail),
        reason=failure.reason,
    )


def build_error_from(exc: BaseException, where: Words) -> GatewayError | None:
    """Build the error that stands for ``exc``, or ``None`` when it is not one of ours."""
    failure = find_failure(exc)
    if failure is None:
        return None
    return build_error(failure, where, f"{type(exc).__name__}: {exc}")


@contextmanager
def ssh_failures(where: Words) -> Iterator[None]:
    """Turn the failures of SSH and of the network within the block into ``GatewayError``.

    ``where`` is a noun phrase that names the far side. What is neither (a fault of ours, a
    cancellation, a ``GatewayError``) passes through unchanged.
    """
    try:
        yield
    except Exception as exc:
        error = build_error_from(exc, where)
        if error is None:
            raise
        raise error from exc


def _printable(detail: str) -> str:
    # The far side wrote parts of it: no control characters in logs, and not at any length.
    clean = "".join(c if c.isprintable() else " " for c in detail)
    return clean if len(clean) <= _DETAIL_LIMIT else clean[: _DETAIL_LIMIT - 1] + "…"

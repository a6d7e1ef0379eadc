"""Looks at the user's files on the compute node, over the tunnel's own connection.

Homes are often on NFS: only a look from the node itself sees at once what the agent there wrote.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final

import asyncssh

from gateway.errors import ClusterRefused, ClusterUnavailable
from gateway.text import Words, text
from gateway.transport import failures
from gateway.transport.failures import ssh_failures
from gateway.transport.quoting import build_command_line
from gateway.tunnel.announcement import ANNOUNCEMENT_LIMIT, not_announced

COMMAND_TIMEOUT: Final = 15.0
# What start-up files print comes before the marker and is cut off.
_NOISE_LIMIT: Final = 256 * 1024
_ABSENT: Final = 66
_NOT_OURS: Final = 67
_HIDDEN: Final = 68

_READ: Final = (
    f'[ -e "$1" ] || [ -h "$1" ] || exit {_ABSENT}; '
    f'[ -f "$1" ] && [ ! -h "$1" ] && [ -O "$1" ] || exit {_NOT_OURS}; '
    'exec head -c "$2" "$1"'
)
# Bound sockets, with their paths, are listed for everybody in a network namespace (proc_net(5)).
_FIND_SOCKET: Final = (
    f'grep -qF " $1" /proc/net/unix || exit {_ABSENT}; [ -S "$1" ] || exit {_HIDDEN}'
)


async def read_file(
    connection: asyncssh.SSHClientConnection, path: str, where: Words
) -> bytes | None:
    """Return the first bytes (one more than the announcement's limit) of a regular file of the
    user's own; ``None`` when there is no such file.

    :raises ClusterRefused: it is no regular file, or not the user's.
    :raises ClusterUnavailable: the node did not answer.
    """
    status, data = await _run(
        connection, ("/bin/sh", "-c", _READ, "sh", path, str(ANNOUNCEMENT_LIMIT + 1)), where
    )
    match status:
        case 0:
            return data
        case 66:
            return None
        case 67:
            raise ClusterRefused(
                text("The job's announcement could not be understood; it was not trusted."),
                detail="not a regular file of the user",
                reason="bad_announcement",
            )
        case _:
            raise ClusterUnavailable(
                text("The job's announcement could not be read on {where}.", where=where),
                detail=f"exit status {status}",
                reason="announcement_unreadable",
            )


async def check_agent_socket(
    connection: asyncssh.SSHClientConnection, directory: str, where: Words
) -> None:
    """Return when the agent listens in ``directory`` and the node shows its socket to SSH.

    :raises NotAnnounced: nobody listens there: the announcement is a former run's.
    :raises ClusterRefused: it listens, but SSH sessions see another directory of that name.
    """
    status, _ = await _run(
        connection, ("/bin/sh", "-c", _FIND_SOCKET, "sh", f"{directory}/agent.sock"), where
    )
    if status == _ABSENT:
        raise not_announced("the announced agent does not listen")
    if status == _HIDDEN:
        raise ClusterRefused(
            text(
                "The job's sockets on {where} are hidden from SSH sessions (jobs have a private "
                "directory of that name there). An admin must set tunnel.socket_directory to a "
                "node-local directory that both see.",
                where=where,
            ),
            detail=directory,
            reason="socket_hidden",
        )


async def _run(
    connection: asyncssh.SSHClientConnection, argv: Sequence[str], where: Words
) -> tuple[int, bytes]:
    marker = secrets.token_hex(16)
    line = build_command_line(argv, marker)
    with ssh_failures(where):
        async with asyncio.timeout(COMMAND_TIMEOUT):
            process = await connection.create_process(
                line, encoding=None, stdin=asyncssh.DEVNULL, stderr=asyncssh.DEVNULL
            )
            try:
                data = b""
                while len(data) <= _NOISE_LIMIT and (more := await process.stdout.read(65536)):
                    data += more
                await process.wait_closed()
            finally:
                process.channel.abort()
    _, found, output = data.partition(marker.encode())
    if not found or process.exit_status is None:
        raise failures.build_error(failures.SESSION_REFUSED, where, "the command did not run")
    return process.exit_status, output

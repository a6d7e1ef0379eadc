"""The seam to a login node: run an argv there, as an account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, Protocol

OUTPUT_LIMIT: Final = 4 * 1024 * 1024


class Role(StrEnum):
    """What a connection is for; each role has its own credential in the profile."""

    USER = "user"  # submit, cancel, the compute-node end of the tunnel
    OBSERVER = "observer"  # queries; must see all jobs
    TUNNEL = "tunnel"  # forwarding only, through the login node


@dataclass(frozen=True, slots=True)
class Actor:
    """An account on the cluster in one role; ``name`` is its POSIX name there."""

    role: Role
    name: str


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command did. ``stdout`` holds only what the command itself printed: anything that
    the account's shell start-up files print before it has been cut off."""

    argv: tuple[str, ...]
    exit_status: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def text(self) -> str:
        """``stdout`` as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout.decode("utf-8", errors="replace")

    @property
    def error_text(self) -> str:
        """``stderr`` as text, likewise."""
        return self.stderr.decode("utf-8", errors="replace")


class Transport(Protocol):
    """Runs commands on one cluster's login node.

    The contract, which ``tests/contract/transport.py`` checks for every implementation:

    - ``argv`` reaches the program word for word, whatever bytes (but NUL) the words hold.
    - A command that ran returns a :class:`CommandResult`, whatever its exit status; death by
      signal N is exit status ``128 + N``. An unknown program is exit status 127.
    - It raises only :class:`~gateway.errors.GatewayError`: ``ClusterUnavailable`` when the login
      node cannot be reached, the connection breaks or ``timeout`` passes (the command may then
      still run there); ``ClusterRefused`` when it will not let us in, its host key is not the
      expected one, or output exceeds ``output_limit`` bytes.
    - Cancelling the call closes the channel and leaves the connection usable.
    - Concurrent calls are allowed; the implementation queues what the far side cannot carry.
    """

    async def run(
        self,
        actor: Actor,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta,
        output_limit: int = OUTPUT_LIMIT,
    ) -> CommandResult:
        """Run ``argv`` in the account's home directory with ``stdin`` and return its result."""
        ...

    async def close(self) -> None:
        """Close all connections; idempotent."""
        ...

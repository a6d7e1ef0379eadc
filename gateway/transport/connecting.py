"""Opening one SSH connection: the options, host keys, and what a failure means."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import asyncssh

from gateway.errors import ConfigurationError, GatewayError
from gateway.text import Text, text
from gateway.transport import failures

# Measured on two cores: the GCM cipher carries about three times what chacha20 does in asyncssh.
CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
)
KEEPALIVE_SECONDS: Final = 5
KEEPALIVE_COUNT: Final = 3
CLOSE_SECONDS: Final = 3.0


class Watcher(asyncssh.SSHClient):
    """Watches one connection: how far the sign-in came, whether more than our key was asked for,
    and its end.

    asyncssh asks for a password only after the keys; when the keys were not refused before
    (``public_key_auth_requested`` means: have you another?), the server took ours and wants more.
    """

    def __init__(self) -> None:
        self.sign_in_begun = False
        self.keys_refused = False
        self.more_asked = False
        self._lost = False
        self._when_lost: list[Callable[[], object]] = []

    def when_lost(self, call: Callable[[], object]) -> None:
        """Call it when the connection is lost or closed; now, if it is already."""
        if self._lost:
            call()
        else:
            self._when_lost.append(call)

    def begin_auth(self, username: str) -> None:
        self.sign_in_begun = True

    def public_key_auth_requested(self) -> None:
        self.keys_refused = True

    def password_auth_requested(self) -> None:
        self.more_asked = self.more_asked or not self.keys_refused

    def kbdint_auth_requested(self) -> None:
        self.more_asked = self.more_asked or not self.keys_refused

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        calls, self._when_lost = self._when_lost, []
        for call in calls:
            call()


async def open_connection(
    host: str,
    port: int,
    where: Text,
    *,
    user: str,
    keys: Sequence[asyncssh.SSHKeyPair],
    known_hosts: asyncssh.SSHKnownHosts,
    timeout: float,
    via: asyncssh.SSHClientConnection | None = None,
    alias: str | None = None,
) -> tuple[asyncssh.SSHClientConnection, Watcher]:
    """Connect and sign in within ``timeout`` seconds; ``where`` names the host in sentences.

    ``via`` is a connection to go through, ``alias`` the name to look up in ``known_hosts``.
    Raises only ``GatewayError``.
    """
    watcher = Watcher()
    ensure_local_names()
    try:
        with failures.ssh_failures(where), _preparing(where):
            async with asyncio.timeout(timeout):
                connection = await asyncssh.connect(
                    host,
                    port,
                    tunnel=via,
                    client_factory=lambda: watcher,
                    config=None,
                    agent_path=None,
                    agent_forwarding=False,
                    x11_forwarding=False,
                    gss_host=None,
                    username=user,
                    client_keys=keys,
                    known_hosts=known_hosts,
                    host_key_alias=alias,
                    # Only the key is ever sent; the others tell that more was asked for.
                    preferred_auth="publickey,keyboard-interactive,password",
                    encryption_algs=CIPHERS,
                    compression_algs=None,
                    keepalive_interval=KEEPALIVE_SECONDS,
                    keepalive_count_max=KEEPALIVE_COUNT,
                    login_timeout=timeout,
                )
    except GatewayError as error:
        raise _explain(error, watcher, where) from error.__cause__
    return connection, watcher


def ensure_local_names() -> None:
    """Give this process a local user name and a home directory where it has none.

    asyncssh (2.24, ``SSHClientConnectionOptions.prepare``) calls ``getpass.getuser()`` before it
    looks at its options, and no option takes its place; the name is then not used, since
    ``username`` is given. Without a name in the environment it is looked up among the accounts of
    this host: an account of a directory service may be unknown or slow, a uid may have no account.
    Likewise ``SSHConfig`` expands ``~`` although no configuration is read.
    """
    # getpass.getuser() takes the first of these that is not empty.
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/nonexistent"


@contextmanager
def _preparing(where: Text) -> Iterator[None]:
    # asyncssh says so of options that it cannot use, and of names that it cannot encode.
    try:
        yield
    except (ValueError, TypeError, KeyError) as exc:
        if failures.find_failure(exc) is not None:
            raise
        detail = f"{type(exc).__name__}: {exc}"
        raise failures.build_error(failures.OPTIONS, where, detail) from exc


def _explain(error: GatewayError, watcher: Watcher, where: Text) -> GatewayError:
    if error.reason == failures.SIGN_IN.reason and watcher.more_asked:
        return failures.build_error(failures.SECOND_FACTOR, where, error.detail)
    if error.reason == failures.LOST.reason and not watcher.sign_in_begun:
        return failures.build_error(failures.DROPPED, where, error.detail)
    return error


def load_known_hosts(path: Path) -> asyncssh.SSHKnownHosts:
    """Read a file of host keys (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). Blocks for a small file.

    It is read at each connection, so that a change counts at once. The result is an object even
    for an empty file: given nothing, asyncssh would look into the home directory.

    :raises ConfigurationError: unreadable, or a line is not understood.
    """
    try:
        return asyncssh.import_known_hosts(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            text("The file of host keys {path} cannot be used.", path=str(path)),
            detail=str(exc),
            reason="known_hosts",
        ) from exc


async def close_connection(connection: asyncssh.SSHClientConnection) -> None:
    """Close and wait, for a few seconds at most, until it is closed; then cut it off."""
    connection.close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.wait_closed()
    except TimeoutError:
        connection.abort()

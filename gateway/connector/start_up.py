"""What must hold before the connector starts; each refusal says what to do."""

from __future__ import annotations

import fcntl
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gateway.errors import ConfigurationError
from gateway.settings import Settings
from gateway.text import text

_SOCKET_PATH_BYTES: Final = 107  # sockaddr_un, unix(7)
_OPEN_FILES: Final = 65536


def prepare_directories(settings: Settings) -> None:
    """Make the state and runtime directories (0700), and check them.

    :raises ConfigurationError: one is not ours, is open to others, or its path is too long.
    """
    for directory in (settings.state_directory, settings.runtime_directory):
        _prepare_directory(directory)
    if len(os.fsencode(settings.connector_socket)) + 16 > _SOCKET_PATH_BYTES:
        raise ConfigurationError(
            text(
                "The path {path} is too long for a unix socket; choose a shorter"
                " runtime_directory.",
                path=str(settings.connector_socket),
            ),
            reason="runtime_directory",
        )
    _raise_file_limit()


def _prepare_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(
            text("The directory {path} cannot be used.", path=str(directory)),
            detail=str(error),
            reason="directory",
        ) from error
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(
            text(
                "The directory {path} must belong to the connector's account with mode 0700.",
                path=str(directory),
            ),
            detail=f"uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
            reason="directory",
        )


def _raise_file_limit() -> None:
    # Every launch holds a listener and a tunnel, every websocket two descriptors.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def lock_state_directory(directory: Path) -> Iterator[None]:
    """Hold the lock of ``directory``: one connector drives its launches.

    :raises ConfigurationError: another one runs.
    """
    descriptor = os.open(directory / "connector.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                text(
                    "Another connector runs with the state directory {path}. Stop it first.",
                    path=str(directory),
                ),
                reason="already_running",
            ) from error
        yield
    finally:
        os.close(descriptor)

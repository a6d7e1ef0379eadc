"""Small secrets that the hub makes for itself, kept in 0600 files of the state directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gateway.errors import ConfigurationError
from gateway.text import text


def ensure_secret(path: Path) -> str:
    """Return the secret in ``path``; a new one (64 hex digits) is made when there is none.

    :raises ConfigurationError: when the file can be read by others, or is not ours to read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _make_secret(path)
    except OSError as error:
        raise _fault(path, str(error)) from error
    with os.fdopen(descriptor, encoding="ascii") as stream:
        mode = os.fstat(stream.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise _fault(path, f"mode {mode:04o}; it must be 0600")
        value = stream.read().strip()
    if len(value) < 32:
        raise _fault(path, "it is too short; delete it and start again")
    return value


def _make_secret(path: Path) -> str:
    value = secrets.token_hex(32)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(value + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # link, not rename: of two processes that start at once, one wins and both read its secret
        try:
            os.link(temporary, path)
        except FileExistsError:
            return ensure_secret(path)
        finally:
            temporary.unlink()
    except OSError as error:
        raise _fault(path, str(error)) from error
    return value


def _fault(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        text("The file {path} cannot be used: {why}", path=str(path), why=why),
        reason="secret_file",
    )

"""What a server starts with, sealed at rest.

AES-256-GCM; the launch id and the start id are authenticated with it, so that a row copied to
another launch does not open.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import ConfigurationError
from gateway.text import text
from gateway.tunnel.base import ServerStart

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
TOKEN_VARIABLE: Final = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - a name, no secret


def new_start_id() -> str:
    """Return a fresh id of one set of secrets: 16 hex digits."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class StartSecrets:
    """One set of secrets of a launch: the server's environment, arguments and hub token.

    ``token_id`` is the hub's row id of the token; it is no secret.
    """

    start_id: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    arguments: tuple[str, ...] = ()
    api_token: str | None = field(default=None, repr=False)
    token_id: str | None = None

    @property
    def server_start(self) -> ServerStart:
        """What the agent gets."""
        environment = dict(self.environment)
        if self.api_token is not None:
            environment[TOKEN_VARIABLE] = self.api_token
        return ServerStart(self.start_id, environment, self.arguments)


class SecretBox:
    """Seals and opens :class:`StartSecrets` with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Use the key in the file ``path``; make one (0600) when there is no such file.

        :raises ConfigurationError: others may read it, it is another's, or it is no key.
        """
        try:
            if not path.exists():
                _write_key(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                status = os.fstat(stream.fileno())
                key = stream.read(_KEY_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(
                text("The connector's key file {path} cannot be used.", path=str(path)),
                detail=str(error),
                reason="key_file",
            ) from error
        if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid not in (0, os.geteuid()):
            raise ConfigurationError(
                text(
                    "The connector's key file {path} can be read by others; it must belong to the"
                    " connector's account with mode 0600. Whoever had access may have read tokens"
                    " of pending servers.",
                    path=str(path),
                ),
                reason="key_file",
            )
        if len(key) != _KEY_BYTES:
            raise ConfigurationError(
                text(
                    "The connector's key file {path} does not hold a key. Restore it from a"
                    " backup; without it, pending servers must be started again.",
                    path=str(path),
                ),
                reason="key_file",
            )
        return cls(key)

    def seal(self, launch_id: str, start: StartSecrets) -> bytes:
        """Return ``start`` encrypted for the row of ``launch_id``."""
        plain = json.dumps(
            {
                "environment": dict(start.environment),
                "arguments": list(start.arguments),
                "api_token": start.api_token,
                "token_id": start.token_id,
            }
        ).encode()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, _place(launch_id, start.start_id))

    def unseal(self, launch_id: str, start_id: str, sealed: bytes) -> StartSecrets:
        """Return what :meth:`seal` was given.

        :raises ConfigurationError: sealed with another key, or for another row.
        """
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            plain = json.loads(self._cipher.decrypt(nonce, body, _place(launch_id, start_id)))
        except InvalidTag as error:
            raise ConfigurationError(
                text(
                    "The stored secrets of a launch cannot be opened: the connector's key is not"
                    " the one they were sealed with."
                ),
                detail=f"launch {launch_id}",
                reason="key_file",
            ) from error
        return StartSecrets(
            start_id,
            plain["environment"],
            tuple(plain["arguments"]),
            plain["api_token"],
            plain["token_id"],
        )


def _place(launch_id: str, start_id: str) -> bytes:
    return f"landfall start {launch_id}/{start_id}".encode()


def _write_key(path: Path) -> None:
    # Complete before it has its name: a crash, or a full disk, leaves no half key.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

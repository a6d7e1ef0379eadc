"""The audit log: one JSON line for every certificate and refusal, on disk before the answer."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import ConfigurationError
from gateway.text import text


class AuditLog:
    """Appends to ``path`` (0600, made if need be). The file may be rotated by renaming."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, entry: Mapping[str, str | int | bool]) -> None:
        """Write one line and wait until it is on disk. Blocks.

        :raises ConfigurationError: it could not be written; then nothing may be signed.
        """
        line = json.dumps(entry, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags, 0o600)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                    raise PermissionError("it must be a file of mode 0600")
                if os.write(descriptor, line) != len(line):
                    raise OSError("the disk is full")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise ConfigurationError(
                text(
                    "The signer cannot write its audit log {path}, so it signs nothing.",
                    path=str(self._path),
                ),
                detail=str(exc),
                reason="audit_log",
            ) from exc

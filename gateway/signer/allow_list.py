"""Reads the allow-list, again whenever it changed; trusts only a file that no other can write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gateway.errors import ConfigurationError
from gateway.signer.policy import AllowList
from gateway.text import Text, text

_SIZE_LIMIT = 4 * 1024 * 1024


class AllowListFile:
    """The allow-list at ``path``. A file that became bad allows nobody."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._value = AllowList()

    def read(self) -> AllowList:
        """Return the present allow-list. Blocks for one small file when it changed.

        :raises ConfigurationError: unreadable, not trusted, or not understood.
        """
        try:
            # One descriptor: what is checked is what is read.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                status = os.fstat(stream.fileno())
                key = (
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
                if key == self._seen:
                    return self._value
                self._check_trusted(status)
                content = stream.read(_SIZE_LIMIT)
        except OSError as exc:
            raise self._fault(text("it cannot be read"), str(exc)) from exc
        self._value = self._parse(content)
        self._seen = key
        return self._value

    def _check_trusted(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode) or status.st_size >= _SIZE_LIMIT:
            raise self._fault(text("it is not a file of less than 4 MiB"))
        directory = self._path.parent.stat()
        for found in (status, directory):
            sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
            if found.st_uid not in (0, os.geteuid()) or (found.st_mode & 0o022 and not sticky):
                raise self._fault(
                    text(
                        "it and its directory must belong to root (or the signer's own account) "
                        "and not be writable by others: chown root, chmod go-w"
                    )
                )

    def _parse(self, content: bytes) -> AllowList:
        try:
            return AllowList.model_validate(YAML(typ="safe", pure=True).load(content) or {})
        except (YAMLError, ValueError) as exc:
            # ValidationError is a ValueError too; its text names the keys, not the values.
            kind = "" if isinstance(exc, ValidationError) else f"{type(exc).__name__}: "
            raise self._fault(text("it is not understood"), f"{kind}{exc}") from exc

    def _fault(self, why: Text, detail: str = "") -> ConfigurationError:
        return ConfigurationError(
            text(
                "The signer's allow-list {path} cannot be used: {why}.",
                path=str(self._path),
                why=why,
            ),
            detail=detail,
            reason="allow_list",
        )

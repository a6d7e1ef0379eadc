"""Logs: one line an event, ``key=value``, on stderr; known secrets never get into one."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

MASK: Final = "[secret]"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+,-]+", re.ASCII)
_SHORTEST_SECRET: Final = 8
_LONGEST: Final = 2000


class SecretMask:
    """The secrets that this process holds now, so that no line shows them."""

    def __init__(self) -> None:
        self._known: dict[str, frozenset[str]] = {}

    def hold(self, owner: str, *values: str | None) -> None:
        """Hide ``values`` in every line until ``owner`` is released; short ones are not secrets."""
        # Thousands may be held, and each launch adds one: searching for them one by one in a line
        # costs less than building one pattern of all of them again and again.
        more = frozenset(value for value in values if value and len(value) >= _SHORTEST_SECRET)
        self._known[owner] = self._known.get(owner, frozenset()) | more

    def release(self, owner: str) -> None:
        """Forget what ``owner`` held."""
        self._known.pop(owner, None)

    def apply(self, line: str) -> str:
        """Return ``line`` with every known secret replaced."""
        # A copy: other threads log too.
        found = {value for held in list(self._known.values()) for value in held if value in line}
        for value in sorted(found, key=len, reverse=True):
            line = line.replace(value, MASK)
        return line


secret_mask: Final = SecretMask()
"""The mask of this process; every handler made by :func:`setup_logging` uses it."""


class KeyValueFormatter(logging.Formatter):
    """``time=… level=… logger=… event="…" key=value…``, always one line."""

    def __init__(self, mask: SecretMask) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        moment = datetime.fromtimestamp(record.created, UTC)
        values: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            values |= {str(name): value for name, value in fields.items() if value is not None}
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return self._mask.apply(
            " ".join(f"{name}={format_value(value)}" for name, value in values.items())
        )


def format_value(value: object) -> str:
    """Return one value: as it is when plain, else as a JSON string (so it stays on its line)."""
    shown = str(value)
    if _PLAIN.fullmatch(shown):
        return shown
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST // 2]} [...] {shown[-_LONGEST // 2 :]}"
    return json.dumps(shown, ensure_ascii=True)


def setup_logging(level: str = "INFO", stream: TextIO | None = None) -> logging.Handler:
    """Send all loggers of this process to ``stream`` (stderr); return the handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(KeyValueFormatter(secret_mask))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("asyncssh", "aiosqlite", "alembic", "sqlalchemy", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return handler


def log_event(
    logger: logging.Logger, level: int, event: str, /, *, error: bool = False, **fields: object
) -> None:
    """Log ``event`` (a fixed phrase) with ``fields``; ``error`` adds the present traceback."""
    logger.log(level, "%s", event, extra={"fields": fields}, exc_info=error)

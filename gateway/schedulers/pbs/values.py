"""Reads single values as PBS prints them. Pure and total.

In JSON the type of a value follows its look: a job named ``123`` is a number, ``007`` is 7. So
every reader takes whatever JSON can hold. What cannot be read is ``None``: of these values nothing
more than a shown time or amount depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

_CTIME: Final = re.compile(
    r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) +([0-9]{1,2}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})",
    re.ASCII,
)
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_CLOCK: Final = re.compile(r"(?:([0-9]{1,7}):)?([0-9]{1,7}):([0-9]{2})(?:\.[0-9]+)?", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,15}", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,15})([kmgtp]?)([bw]?)", re.ASCII)
_BYTES_PER: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}
_WORD_BYTES: Final = 8
_MOST_SECONDS: Final = 10**10


def read_text(value: object) -> str:
    """Words; ``""`` when there are none."""
    if value is None or isinstance(value, Mapping | list):
        return ""
    return str(value)


def read_map(value: object) -> Mapping[str, object]:
    """The attributes below one, such as ``Resource_List``; empty when there are none."""
    return value if isinstance(value, Mapping) else {}


def read_number(value: object) -> int | None:
    """A whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    return None


def read_flag(value: object) -> bool:
    """A boolean, which PBS prints as ``True`` or ``False``."""
    return read_text(value) == "True"


def read_moment(value: object) -> datetime | None:
    """Seconds since 1970, or a time as of ctime(3), printed under ``TZ=UTC0``; aware, UTC."""
    number = read_number(value)
    if number is not None:
        if not 0 < number < _MOST_SECONDS:
            return None
        return datetime.fromtimestamp(number, UTC)
    match = _CTIME.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] not in _MONTHS:
        return None
    day, hour, minute, second, year = (int(part) for part in match.groups()[1:])
    month = _MONTHS.index(match[1]) + 1
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def read_duration(value: object) -> timedelta | None:
    """``HH:MM:SS``, ``MM:SS`` or seconds (pbs_resources(7B)); hours go on beyond 24."""
    number = read_number(value)
    if number is not None:
        return timedelta(seconds=number) if 0 <= number < _MOST_SECONDS else None
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    return timedelta(hours=int(match[1] or 0), minutes=int(match[2]), seconds=int(match[3]))


def read_mib(value: object) -> int | None:
    """An amount such as ``8gb``, ``102400kb`` or bytes, in whole MiB, rounded down."""
    match = _SIZE.fullmatch(read_text(value).lower())
    if match is None:
        return None
    unit = _WORD_BYTES if match[3] == "w" else 1
    return int(match[1]) * _BYTES_PER[match[2]] * unit // 2**20


def read_hosts(value: object) -> tuple[str, ...]:
    """The hosts of an ``exec_host`` such as ``c1/0*4+c2/1``, each once."""
    names = (part.partition("/")[0] for part in read_text(value).split("+"))
    return tuple(dict.fromkeys(name for name in names if _HOST.fullmatch(name)))


def read_list(value: object) -> tuple[str, ...]:
    """The words of ``a,b,c``."""
    return tuple(word for word in map(str.strip, read_text(value).split(",")) if word)


_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}", re.ASCII)

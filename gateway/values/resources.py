"""Amounts: walltime, memory, GPUs. The only parsers of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self

_MEMORY: Final = re.compile(r"([0-9]{1,9}) ?(K|M|G|T)(?:i?B)?", re.ASCII)
_MIB_PER: Final = {"M": 1, "G": 1024, "T": 1024 * 1024}
_UNITS_TIME: Final = re.compile(
    r"(?:([0-9]{1,4}) ?d)? ?(?:([0-9]{1,5}) ?h)? ?"
    r"(?:([0-9]{1,6}) ?(?:min|m))? ?(?:([0-9]{1,7}) ?s)?",
    re.ASCII,
)
_CLOCK_TIME: Final = re.compile(r"(?:([0-9]{1,4})-)?([0-9]{1,4}):([0-9]{2}):([0-9]{2})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class MemorySize:
    """An amount of memory, whole MiB (what Slurm, PBS and Grid Engine all can express)."""

    mib: int

    @classmethod
    def parse(cls, value: str) -> Self:
        """Parse ``"4G"``, ``"4 GiB"``, ``"512M"``; a bare number is refused.

        :raises ValueError: with a sentence that says what is accepted.
        """
        match = _MEMORY.fullmatch(value)
        if match is None:
            raise ValueError(
                f'"{_short(value)}" is not an amount of memory; write it like 4G or 512M'
            )
        number, unit = int(match[1]), match[2]
        if unit == "K":
            if number % 1024:
                raise ValueError(f'"{value}" is not a whole number of MiB; write it in M')
            mib = number // 1024
        else:
            mib = number * _MIB_PER[unit]
        if mib <= 0:
            raise ValueError(f'"{value}" is no memory at all; write it like 4G or 512M')
        return cls(mib)

    def __str__(self) -> str:
        for unit, size in (("T", 1024 * 1024), ("G", 1024)):
            if self.mib % size == 0:
                return f"{self.mib // size}{unit}"
        return f"{self.mib}M"


def parse_walltime(value: str) -> timedelta:
    """Parse ``"90m"``, ``"8h"``, ``"1d 12h"``, ``"8:00:00"`` or ``"1-12:00:00"``.

    Two-part clock times are refused: ``30:00`` is minutes to Slurm and hours to many readers.

    :raises ValueError: with a sentence that says what is accepted.
    """
    if match := _CLOCK_TIME.fullmatch(value):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        if minutes > 59 or seconds > 59:
            raise ValueError(f'"{value}" is not a time; minutes and seconds go up to 59')
    elif value and (match := _UNITS_TIME.fullmatch(value)) and any(match.groups()):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    else:
        raise ValueError(f'"{_short(value)}" is not a walltime; write it like 90m, 8h or 8:00:00')
    result = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if result <= timedelta():
        raise ValueError(f'"{value}" is no time at all; write it like 90m, 8h or 8:00:00')
    return result


def format_walltime(value: timedelta) -> str:
    """Return ``D-HH:MM:SS`` or ``HH:MM:SS`` (sbatch(1) --time; also what people read)."""
    seconds = int(value.total_seconds())
    days, seconds = divmod(seconds, 86400)
    clock = f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
    return f"{days}-{clock}" if days else clock


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """``count`` GPUs, of ``kind`` (such as ``a100``) when the partition has several kinds."""

    count: int
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What the user chose; every name in it was checked against what this user may ask for."""

    partition: str
    walltime: timedelta
    cores: int
    memory: MemorySize
    gpus: GpuRequest | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None


def _short(value: str) -> str:
    shown = value.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= 60 else shown[:57] + "..."

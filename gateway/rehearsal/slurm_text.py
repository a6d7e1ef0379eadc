"""How Slurm writes amounts, times and tables, and how it reads them. Pure.

Sources: sbatch(1) ``--time``, ``--mem``, ``--gres``; squeue(1) ``--format`` and ``--Format``;
recorded output of 22.05.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

_TIME: Final = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_MEMORY: Final = re.compile(r"(\d+)([KMGTkmgt]?)[Bb]?")
_GRES: Final = re.compile(r"(?:gres[:/])?gpu(?::([A-Za-z][A-Za-z0-9_.-]*))?(?::(\d+))?")
_LETTER: Final = re.compile(r"%(\.?)(\d*)([A-Za-z])")
_FIELD: Final = re.compile(r"([A-Za-z_:/-]*[A-Za-z_])(?::(\.?)(\d*)(.?))?")
_DEFAULT_WIDTH: Final = 20


class UsageError(Exception):
    """A command line that the command does not take; the words go to stderr."""

    def __init__(self, words: str, status: int = 1) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One command as it arrived; ``argv[0]`` is its name."""

    user: str
    argv: Sequence[str]
    cwd: str
    environment: Mapping[str, str] = field(repr=False)
    script: bytes = field(default=b"", repr=False)

    def show_time(self, when: float | None, absent: str = "N/A") -> str:
        """A time as the client would print it (``SLURM_TIME_FORMAT``, ``TZ``)."""
        if when is None:
            return absent
        pattern = self.environment.get("SLURM_TIME_FORMAT", "standard")
        if pattern == "%s":
            return str(int(when))
        utc = self.environment.get("TZ", "").upper() in {"UTC", "UTC0", "GMT", "GMT0"}
        broken = time.gmtime(when) if utc else time.localtime(when)
        return time.strftime("%Y-%m-%dT%H:%M:%S" if pattern == "standard" else pattern, broken)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command prints, and its exit status."""

    stdout: str = ""
    stderr: str = ""
    status: int = 0


def parse_time_limit(text: str) -> int | None:
    """Seconds of a ``--time`` value; ``None`` when it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    days, first, second, third = (None if part is None else int(part) for part in match.groups())
    if days is not None:  # D-H[:M[:S]]
        return days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    if third is not None:
        return (first or 0) * 3600 + (second or 0) * 60 + third
    return (first or 0) * 60 + (second or 0)


def parse_memory(text: str) -> int | None:
    """MiB of a ``--mem`` value (a bare number is MiB)."""
    match = _MEMORY.fullmatch(text)
    if match is None:
        return None
    number = int(match[1])
    unit = match[2].upper()
    return -(-number // 1024) if unit == "K" else number * {"G": 1024, "T": 1024**2}.get(unit, 1)


def parse_gres(text: str) -> tuple[int, str | None] | None:
    """``(count, kind)`` of ``gpu[:kind][:count]``; ``None`` when it is no GPU."""
    match = _GRES.fullmatch(text)
    return (int(match[2] or 1), match[1]) if match else None


def show_duration(seconds: int) -> str:
    """squeue's way: ``59:54``, ``1:00:00``, ``3-00:00:00``."""
    days, rest = divmod(seconds, 86400)
    hours, minutes, rest = rest // 3600, rest % 3600 // 60, rest % 60
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_clock(seconds: int) -> str:
    """scontrol's and sacct's way: ``01:00:00``, ``3-00:00:00``."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def show_memory(mib: int) -> str:
    """``20000M`` or ``4G``."""
    return f"{mib // 1024}G" if mib and mib % 1024 == 0 else f"{mib}M"


def show_nodes(names: Iterable[str]) -> str:
    """A host list: ``r[1-2,4]``; the names are ``r<number>``."""
    numbers = sorted({int(name[1:]) for name in names})
    if not numbers:
        return ""
    if len(numbers) == 1:
        return f"r{numbers[0]}"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "r[" + ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs) + "]"


def parse_nodes(text: str) -> list[str]:
    """The names in a host list."""
    names: list[str] = []
    for word in re.findall(r"[^,\[]+(?:\[[^\]]*\])?", text):
        prefix, _, ranges = word.partition("[")
        if not ranges:
            names.append(prefix)
            continue
        for part in ranges.rstrip("]").split(","):
            first, _, last = part.partition("-")
            names += [f"{prefix}{n}" for n in range(int(first), int(last or first) + 1)]
    return names


class Columns:
    """A parsed ``-o``/``--Format`` value over a table of fields.

    ``letters`` maps format letters to field names; a row is a mapping from lower-case field names
    to text. Widths cut and pad as Slurm does.
    """

    def __init__(self, render: Callable[[Mapping[str, str]], str], names: Sequence[str]) -> None:
        self.render = render
        self.names = names

    @classmethod
    def of_letters(cls, text: str, letters: Mapping[str, str], command: str) -> Columns:
        """Parse ``%.18i|%T``."""
        names = []
        for _, _, letter in _LETTER.findall(text):
            if letter not in letters:
                raise UsageError(f"{command}: error: Invalid job format specification: {letter}")
            names.append(letters[letter])

        def render(row: Mapping[str, str]) -> str:
            def one(match: re.Match[str]) -> str:
                return _fit(row[letters[match[3]]], match[2], right=bool(match[1]))

            return _LETTER.sub(one, text)

        return cls(render, names)

    @classmethod
    def of_names(cls, text: str, known: Iterable[str], command: str) -> Columns:
        """Parse ``JobID:|,State:30``: ``name[:[.][size][suffix]]``."""
        fields = []
        available = set(known)
        for word in text.split(","):
            match = _FIELD.fullmatch(word.strip())
            if match is None or match[1].lower() not in available:
                raise UsageError(f"{command}: error: Invalid field requested: {word!r}")
            width = match[3] if match[3] or match[4] else str(_DEFAULT_WIDTH)
            fields.append((match[1].lower(), width or "", bool(match[2]), match[4] or ""))

        def render(row: Mapping[str, str]) -> str:
            return "".join(_fit(row[n], w, right=r) + suffix for n, w, r, suffix in fields)

        return cls(render, [name for name, *_ in fields])


def _fit(value: str, width: str, *, right: bool) -> str:
    if not width or width == "0":
        return value
    size = int(width)
    return value[:size].rjust(size) if right else value[:size].ljust(size)


@dataclass(frozen=True, slots=True)
class Options:
    """Parsed options, by long name without dashes; repeated ones keep the last value."""

    values: Mapping[str, str]
    words: Sequence[str]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: str = "") -> str:
        """The value, or ``default``."""
        return self.values.get(name, default)

    def listed(self, name: str) -> list[str]:
        """A comma-separated value as a list."""
        return [word for word in self.values.get(name, "").split(",") if word]


class _Scanner:
    """getopt_long's rules over one argv."""

    def __init__(self, command: str, flags: str, valued: str, status: int) -> None:
        self._command, self._status = command, status
        self._takes: dict[str, bool] = {}
        self._short: dict[str, str] = {}
        for text, takes in ((flags, False), (valued, True)):
            for entry in text.split():
                name, _, letter = entry.partition(":")
                self._takes[name] = takes
                if letter:
                    self._short[letter] = name
        self.values: dict[str, str] = {}
        self._rest: list[str] = []

    def scan(self, argv: Sequence[str], *, stop_at_word: bool) -> list[str]:
        """Fill ``values`` and return the words that are no options."""
        words: list[str] = []
        self._rest = list(argv)
        while self._rest:
            word = self._rest.pop(0)
            if word == "--":
                return words + self._rest
            if word.startswith("--"):
                self._long(word)
            elif word.startswith("-") and len(word) > 1:
                self._letters(word)
            elif stop_at_word:
                return [word, *self._rest]
            else:
                words.append(word)
        return words

    def _long(self, word: str) -> None:
        name, equals, inline = word[2:].partition("=")
        if name not in self._takes:
            raise self._unknown(word)
        if equals or not self._takes[name]:
            self.values[name] = inline
        else:
            self.values[name] = self._next(word)

    def _letters(self, word: str) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in self._short:
                raise self._unknown(f"-{letter}")
            name = self._short[letter]
            if self._takes[name]:
                self.values[name] = letters or self._next(word)
                return
            self.values[name] = ""

    def _next(self, option: str) -> str:
        if not self._rest:
            words = f"{self._command}: option '{option}' requires an argument"
            raise UsageError(words, self._status)
        return self._rest.pop(0)

    def _unknown(self, option: str) -> UsageError:
        hint = f'Try "{self._command} --help" for more information'
        return UsageError(f"{self._command}: unrecognized option '{option}'\n{hint}", self._status)


def parse_options(
    argv: Sequence[str],
    *,
    command: str,
    flags: str,
    valued: str,
    status: int = 1,
    stop_at_word: bool = False,
) -> Options:
    """Parse ``argv``; ``flags`` and ``valued`` list options as ``long`` or ``long:l``.

    :raises UsageError: as the real command says it.
    """
    scanner = _Scanner(command, flags, valued, status)
    words = scanner.scan(argv, stop_at_word=stop_at_word)
    return Options(scanner.values, words)

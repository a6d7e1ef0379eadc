"""What a check found, and what a list of checks is made of. Values only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway.text import Text, Words


class Outcome(StrEnum):
    """How a station went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """``words`` say what was seen, ``remedies`` what it may come from and what to do, most
    likely first; ``detail`` is what a program said, for admins."""

    outcome: Outcome
    words: Words
    remedies: tuple[Words, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Station:
    """One thing to try. It is skipped unless every station in ``needs`` was passed."""

    key: str
    title: Text
    check: Callable[[], Awaitable[Finding]]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A station, what was found there, and how many seconds it took."""

    key: str
    title: Text
    finding: Finding
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether stations that need this one can be tried."""
        return self.finding.outcome in (Outcome.OK, Outcome.WARN)


def ok(words: Words) -> Finding:
    """Everything is as it must be."""
    return Finding(Outcome.OK, words)


def warn(words: Words, *remedies: Words, detail: str = "") -> Finding:
    """It works, but somebody should look."""
    return Finding(Outcome.WARN, words, remedies, detail)


def fail(words: Words, *remedies: Words, detail: str = "") -> Finding:
    """The gateway does not work with this."""
    return Finding(Outcome.FAIL, words, remedies, detail)


def skipped(words: Words) -> Finding:
    """It was not tried."""
    return Finding(Outcome.SKIPPED, words)

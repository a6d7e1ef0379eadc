"""What real OpenPBS servers printed, as our own questions would have been answered."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gateway.schedulers.command_environment import ANSWERED
from gateway.transport.base import CommandResult

ROOT = Path(__file__).parents[3] / "recorded" / "pbs"
VERSIONS = ("23.06.06", "main-2026-04")


@dataclass(frozen=True, slots=True)
class Recording:
    """One command and what it did; ``exit_status`` is ``None`` when it was given up."""

    path: Path
    name: str
    user: str
    argv: tuple[str, ...]
    exit_status: int | None
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Its output, as a transport reads it."""
        return self.stdout.decode(errors="replace")

    @property
    def result(self) -> CommandResult:
        """As a transport returns it: what succeeded under our line has the closing line."""
        assert self.exit_status is not None
        closing = f"{ANSWERED}\n".encode() if self.exit_status == 0 else b""
        argv = ("sh", "-c", "", "sh", *self.argv)
        return CommandResult(argv, self.exit_status, self.stdout + closing, self.stderr, 0.01)

    @property
    def effect(self) -> CommandResult:
        """As a transport returns a command that is no question."""
        assert self.exit_status is not None
        return CommandResult(self.argv, self.exit_status, self.stdout, self.stderr, 0.01)


@cache
def load(version: str) -> tuple[Recording, ...]:
    """All recordings of one version, in order."""
    found = []
    for path in sorted((ROOT / version).glob("*.json")):
        raw = json.loads(path.read_text())
        stdout = raw["stdout"].encode(errors="surrogateescape")
        if raw.get("stdout_b64"):
            stdout = base64.b64decode(raw["stdout_b64"])
        found.append(
            Recording(
                path,
                raw["name"],
                raw["user"],
                tuple(raw["argv"]),
                raw["rc"] if isinstance(raw["rc"], int) else None,
                stdout,
                raw["stderr"].encode(),
            )
        )
    assert found, f"no recordings in {ROOT / version}"
    return tuple(found)


def one(version: str, name: str) -> Recording:
    """The first recording of that name."""
    return next(recording for recording in load(version) if recording.name == name)


def about_jobs(version: str, form: str = "json") -> list[Recording]:
    """Every question about jobs that a server answered, in full."""
    return [
        recording
        for recording in load(version)
        if recording.argv[0] == "qstat"
        and {"-f", "-F", form} <= set(recording.argv)
        and not {"-Q", "-B", "-u"} & set(recording.argv)
        and recording.exit_status in (0, 153)
    ]

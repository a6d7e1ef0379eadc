"""What real Grid Engine printed: 8.1.9 on a single host, and 8.1.9-bed in the test bed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from gateway.profiles.models import GridEngineSchedulerProfile
from gateway.schedulers.command_environment import ANSWERED
from gateway.transport.base import CommandResult

ROOT = Path(__file__).parents[3] / "recorded" / "gridengine"
SINGLE, BED = "8.1.9", "8.1.9-bed"
PROFILE = GridEngineSchedulerProfile(
    kind="gridengine", parallel_environment="smp", gpu_complex="gpu"
)


@cache
def load(version: str) -> dict[str, Any]:
    """All recordings of one version, by the name of their file without the number."""
    return {
        path.stem.partition("-")[2]: json.loads(path.read_text())
        for path in sorted((ROOT / version).glob("*.json"))
    }


def one(version: str, name: str) -> CommandResult:
    """One command, as a transport returns it for an effect."""
    raw = load(version)[name]
    argv = tuple(raw["argv"])
    return CommandResult(argv, raw["rc"], raw["stdout"].encode(), raw["stderr"].encode(), 0.01)


def asked(version: str, name: str) -> CommandResult:
    """One command, as a transport returns it for a query: with the closing line."""
    result = one(version, name)
    closing = f"{ANSWERED}\n".encode() if result.exit_status == 0 else b""
    return CommandResult(
        result.argv, result.exit_status, result.stdout + closing, result.stderr, 0.01
    )


def answered(output: str) -> str:
    """A complete answer."""
    return f"{output}{ANSWERED}\n"

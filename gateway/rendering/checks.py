"""Checks on a rendered job script, whoever wrote the template. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SIZE_LIMIT: Final = 64 * 1024

# A script is kept by the scheduler, often for years, and read by its admins.
_SECRETS: Final = re.compile(r"JUPYTERHUB_API_TOKEN|JPY_API_TOKEN|PRIVATE KEY-----")
# Prints every later command, and with it what the server is given, into the log.
_TRACE: Final = re.compile(
    r"(?:^|[;&|]|\bthen|\bdo)\s*set\s+(?:-[a-zA-Z]*x|(?:-[a-zA-Z]+\s+)*-o\s+xtrace)"
)
_DIRECTIVE: Final = re.compile(r"\s*#\s*(SBATCH|PBS|\$)(?=\s)")
# What -v of PBS and Grid Engine holds can be read by every user of the cluster.
_EXPORT: Final = re.compile(
    r"\s*#(?:SBATCH\s.*--(?:export|get-user-env)\b|(?:PBS|\$)\s(?:.*\s)?-[vV])"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a script: its line (from 1), what is wrong, and what to do."""

    line: int
    words: str


def check_script(script: str) -> tuple[Fault, ...]:
    """Return the faults of a rendered script, in the order of its lines."""
    faults = []
    if len(script.encode("utf-8", errors="replace")) > SIZE_LIMIT:
        faults.append(Fault(1, f"it is longer than {SIZE_LIMIT // 1024} KiB; make it shorter"))
    if not script.startswith("#!"):
        faults.append(Fault(1, "it does not begin with #!; put #!/bin/bash on its first line"))
    commands = False
    # Only \n ends a line for the shell and for sbatch.
    for number, line in enumerate(script.split("\n"), start=1):
        faults += [Fault(number, words) for words in _check_line(line, commands)]
        commands = commands or bool(line.strip() and not line.lstrip().startswith("#"))
    return tuple(faults)


def _check_line(line: str, commands: bool) -> list[str]:
    faults = []
    if "\r" in line:
        faults.append("it holds a carriage return; save the template with Unix line ends")
    if "\0" in line:
        faults.append("it holds a NUL character; remove it")
    if _SECRETS.search(line):
        faults.append("it names a secret; the agent receives secrets by itself, remove it")
    if _TRACE.search(line):
        faults.append("set -x would print what the server is given into the log; remove it")
    if commands and _DIRECTIVE.match(line):
        faults.append("a directive after the first command is ignored; move it up")
    if _EXPORT.match(line):
        faults.append(
            "the environment of the job is the gateway's business; remove --export, -v or -V"
        )
    return faults

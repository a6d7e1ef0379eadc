"""python -m tests.testbed up|down|status|shell: the test bed as a tool for people."""

from __future__ import annotations

import argparse
import os
import sys

from . import daemons
from .bed import Bed, BedError
from .hosts import HostError
from .layout import HOSTS, layout_of
from .teardown import is_kept, list_beds, remove_stale, tear_down


def _the_bed(run_id: str | None) -> Bed:
    wanted = run_id or os.environ.get("LANDFALL_BED")
    if wanted is None:
        beds = list_beds()
        if len(beds) != 1:
            raise BedError(f"which bed? There are: {' '.join(beds) or 'none'}; use --id")
        wanted = beds[0]
    return Bed.find(wanted)


def _up(run_id: str | None) -> None:
    bed = Bed.up(run_id, say=lambda line: print(line, flush=True), keep=True)
    _status(bed)
    print(f"\nLANDFALL_BED={bed.run_id}    (export it, and tests use this bed)")
    print(f"python -m tests.testbed shell login --id {bed.run_id} --user alice")
    print(f"python -m tests.testbed down --id {bed.run_id}")


def _status(bed: Bed) -> None:
    print(f"bed {bed.run_id} in {bed.layout.state}")
    print(f"memory limits: {bed.memory_limits}")
    for host, name in daemons.PLACES:
        print(f"  {host:6} {name:10} {'running' if bed.is_running(host, name) else 'NOT RUNNING'}")
    print(bed.run("login", ["sinfo"], timeout=30).stdout, end="")


def _down(run_id: str | None) -> None:
    """Without an id, the one bed that a person brought up; a test's bed is the test's."""
    remove_stale()
    mine = [run_id] if run_id else [name for name in list_beds() if is_kept(name)]
    if len(mine) > 1:
        raise BedError(f"which bed? There are: {' '.join(mine)}; use --id")
    for name in mine:
        tear_down(layout_of(name))
        print(f"bed {name} is gone")


def _shell(bed: Bed, host: str, user: str | None, argv: list[str]) -> None:
    words = [*bed.in_namespace(host, user), *(argv or ["bash", "-l"])]
    os.execvp(words[0], words)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "bring up a bed and leave it running"),
        ("down", "take away a bed"),
        ("status", "what runs"),
        ("shell", "a shell, or a command after --, on a host"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--id", help="the run id: 1 to 8 lower-case letters and digits")
        if name == "shell":
            sub.add_argument("host", choices=HOSTS)
            sub.add_argument("--user", help="a user of that host; root without it")
    # argparse would give what follows `--` to the first argument that is missing.
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:split])
    try:
        match given.command:
            case "up":
                _up(given.id)
            case "down":
                _down(given.id)
            case "status":
                _status(_the_bed(given.id))
            case "shell":
                _shell(_the_bed(given.id), given.host, given.user, words[split + 1 :])
    except (BedError, HostError, ValueError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

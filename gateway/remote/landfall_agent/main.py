"""The command line of the agent."""

import argparse
import asyncio
import os
import shutil
import sys
from typing import List

from .places import check_start_directory, find_command, make_socket_directory
from .session import Agent, Options
from .words import Failure, say


def parse_arguments(argv: List[str]) -> Options:
    """Parse the command line; exits with status 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="agent")
    for name in ("--launch-id", "--directory", "--socket-directory"):
        parser.add_argument(name, required=True)
    parser.add_argument("--start-directory")
    cut = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    command = argv[cut + 1 :]
    if not command:
        parser.error("no command after --")
    return Options(command=command, **vars(options))


async def serve(options: Options) -> int:
    """Check everything that can be checked before the wait, then live."""
    cwd = check_start_directory(options.start_directory)
    command = [find_command(options.command[0]), *options.command[1:]]
    directory = make_socket_directory(options.socket_directory)
    try:
        return await Agent(options, directory, cwd, command).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(argv: List[str]) -> int:
    """Run the agent; return its exit status."""
    os.umask(0o077)
    if sys.version_info < (3, 8):
        say("The agent needs Python 3.8 or later: tell the support.", error="agent_python_old")
        return 73
    options = parse_arguments(argv)
    try:
        return asyncio.run(serve(options))
    except Failure as failure:
        say(failure.words, error=failure.code)
        return failure.status

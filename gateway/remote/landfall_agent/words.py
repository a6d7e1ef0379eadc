"""What the agent says in the job's log, and its failures."""

import contextlib
import errno
import sys
import time
from typing import Optional

FAILURES = {
    "quota": "{} is full or over quota: free some space, then start again.",
    "directory_missing": "{} does not exist on this node: tell the cluster's support.",
    "directory_not_writable": "{} cannot be written ({}): tell the cluster's support.",
    "socket_directory": "{} is too long or not all lower case: tell the cluster's support.",
    "home_missing": "The home directory {} is not available on this node: start again.",
    "start_directory": "The start directory {}: choose another.",
    "command_not_found": 'The command "{}" cannot be run ({}): choose another environment or tell '
    "the cluster's support.",
    "server_failed": "The server ended with exit status {}{}: its own words are above this line.",
    "server_killed": "The server was killed by signal {}{}: signal 9 most often means too little "
    "memory; ask for more.",
}


class Failure(Exception):
    """The job cannot go on; ``words`` say why and what to do, ``status`` is the exit status."""

    def __init__(self, code: str, *details: object, status: int = 1) -> None:
        self.code, self.status = code, status
        self.words = FAILURES[code].format(*details)
        super().__init__(self.words)


def say(words: str, error: Optional[str] = None) -> None:
    """Write one line to the job's log; with ``error``, the one that the gateway looks for."""
    head = time.strftime("%Y-%m-%d %H:%M:%S") if error is None else "error {}:".format(error)
    with contextlib.suppress(OSError):  # a full disk must not end the session
        sys.stderr.write("landfall: {} {}\n".format(head, " ".join(words.split())))
        sys.stderr.flush()


def explain_os_error(error: OSError, path: str) -> Failure:
    """Turn a failure to write at ``path`` into words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("quota", path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Failure("directory_missing", path)
    return Failure("directory_not_writable", path, error.strerror)

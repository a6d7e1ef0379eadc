"""Directories and files of the agent on the node and in the launch directory."""

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from typing import Any, Dict, Optional

from .words import Failure, explain_os_error, say

# A kernel's ipc socket is DIRECTORY/r/kernel-<36 characters>-ipc-N; sun_path holds 107 bytes.
DIRECTORY_LIMIT = 107 - len("/r/kernel--ipc-9") - 36
DIRECTORY_GRAMMAR = re.compile(r"/[a-z0-9/_.-]+")


def check_start_directory(asked: Optional[str]) -> str:
    """Return the absolute directory in which the server starts: the home directory or below."""
    home = os.path.expanduser("~")
    if not os.path.isabs(home) or not os.path.isdir(home):
        raise Failure("home_missing", home)
    if asked is None:
        return home
    real, real_home = os.path.realpath(os.path.join(home, asked)), os.path.realpath(home)
    if os.path.commonpath([real, real_home]) != real_home:
        raise Failure("start_directory", "is not inside your home directory")
    if not os.path.isdir(real) or not os.access(real, os.R_OK | os.X_OK):
        raise Failure("start_directory", "does not exist or cannot be entered")
    return real


def find_command(name: str) -> str:
    """Return the absolute path of the server's program."""
    path = shutil.which(name)
    if path is None:
        raise Failure("command_not_found", name, "not found, or not executable", status=127)
    return os.path.abspath(path)


def make_socket_directory(asked: str) -> str:
    """Make a new 0700 directory on this node, in ``asked`` or else where any node has room."""
    failures = []
    for parent in dict.fromkeys((asked, "/tmp", "/var/tmp", "/dev/shm")):  # noqa: S108
        try:
            mode = os.stat(parent).st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                # Anybody could put a directory of their own in the place of ours.
                raise PermissionError(errno.EPERM, "writable by all, without the sticky bit")
            path = tempfile.mkdtemp(prefix="lf", dir=parent)
        except OSError as error:
            failures.append(explain_os_error(error, parent))
        else:
            if len(path) <= DIRECTORY_LIMIT and DIRECTORY_GRAMMAR.fullmatch(path):
                return path
            os.rmdir(path)
            failures.append(Failure("socket_directory", parent))
        say("No place for sockets: {}".format(failures[-1].words))
    raise failures[0]


def write_announcement(directory: str, announcement: Dict[str, Any]) -> str:
    """Write ``announcement.json`` so that a reader sees all of it or nothing; return its path."""
    content = json.dumps(announcement).encode("ascii")
    path = os.path.join(directory, "announcement.json")
    temporary = "{}.{}".format(path, announcement["nonce"])
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                # Some file systems tell of a full disk only by the size.
                if os.fstat(stream.fileno()).st_size != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise explain_os_error(error, directory) from error
    return path

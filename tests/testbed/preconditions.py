"""What a bed needs of the machine."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

from .processes import CLEAN_ENVIRONMENT

TOOLS = (
    *("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db", "sshd"),
    *("ssh-keygen", "nft", "ip", "nsenter", "unshare", "setpriv"),
)


def why_not() -> str | None:
    """Why no bed can be brought up here, as a sentence; None when it can."""
    if sys.platform != "linux":
        return "the test bed needs Linux"
    if os.geteuid() != 0:
        return "the test bed needs root (it makes network namespaces)"
    path = f"{os.environ.get('PATH', '')}:{CLEAN_ENVIRONMENT['PATH']}"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if not Path("/usr/share/lmod/lmod/init/bash").exists():
        missing.append("lmod")
    if missing:
        return f"the test bed lacks {', '.join(missing)}: run `make test-setup`"
    return None


def why_users_cannot_run_python() -> str | None:
    """Why cluster users could not run this interpreter, as a sentence; None when they can."""
    for prefix in (Path(sys.prefix), Path(sys.base_prefix)):
        for directory in (prefix, *prefix.parents):
            if not directory.stat().st_mode & stat.S_IXOTH:
                return (
                    f"cluster users cannot run {prefix}/bin/python: {directory} is closed to them"
                )
    return None

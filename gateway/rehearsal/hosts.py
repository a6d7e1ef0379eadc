"""The hosts and accounts of a rehearsal cluster: where they are, and what a session there sees.

All accounts are one real account, that of this process; each has a home of its own, and commands
of its own: a directory of look-alikes that comes first in PATH.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOGIN: Final = "login"
COMPUTE: Final = ("r1", "r2", "r3", "r4")
USERS: Final = ("alice", "bob", "carol")
OBSERVER: Final = "observer"
TUNNEL: Final = "tunnel"
SCHEDULER_COMMANDS: Final = (
    "sbatch", "squeue", "scancel", "sinfo", "scontrol", "sacct", "sacctmgr",
)  # fmt: skip

# Asks the controller: one JSON line and the raw script there, one JSON document back.
_CLIENT: Final = """\
#!{python} -IS
import json, os, socket, sys
command = os.path.basename(sys.argv[0])
script = b""
if command == "sbatch" and not sys.stdin.closed:
    names = [word for word in sys.argv[1:] if word in ("--version", "-V")]
    script = b"" if names else sys.stdin.buffer.read()
request = {{
    "user": os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0]))),
    "argv": [command] + sys.argv[1:],
    "cwd": os.getcwd(),
    "environment": dict(os.environ),
    "script_bytes": len(script),
}}
link = socket.socket(socket.AF_UNIX)
try:
    link.connect({socket!r})
except OSError:
    sys.stderr.write(command + ": error: Unable to contact slurm controller (connect failure)\\n")
    sys.exit(1)
link.sendall(json.dumps(request).encode() + b"\\n" + script)
with link.makefile("rb") as answer:
    reply = json.loads(answer.read())
sys.stdout.write(reply["stdout"])
sys.stdout.flush()
sys.stderr.write(reply["stderr"])
sys.exit(reply["status"])
"""

_HOSTNAME: Final = """\
#!/bin/sh
printf '%s\\n' "${SLURMD_NODENAME:-${REHEARSAL_HOST:-login}}"
"""

_WHOAMI: Final = """\
#!/bin/sh
echo {user}
"""

# Names are ours, numbers are real.
_ID: Final = """\
#!/bin/sh
real=/usr/bin/id
case "$*" in
-un|-nu|"-u -n"|"-n -u") echo {user} ;;
*)
    last=
    for last in "$@"; do :; done
    case "$last" in
    ""|-*) exec $real "$@" ;;
    {accounts})
        case "$1" in
        -un|-nu) echo "$last" ;;
        -*) exec $real "$1" ;;
        *) exec $real ;;
        esac ;;
    *) exec $real "$@" ;;
    esac ;;
esac
"""

# One step on one node: enough for `srun hostname` and `srun --pty bash` in a session.
_SRUN: Final = """\
#!/bin/sh
[ -n "$SLURM_JOB_ID" ] || {
    echo "srun: error: Unable to allocate resources: this rehearsal runs srun in jobs only" >&2
    exit 1
}
while [ $# -gt 0 ]; do
    case "$1" in
    --) shift; break ;;
    -[nNcpJtwAG]|--ntasks|--nodes|--cpus-per-task|--mem|--time|--job-name|--gres) shift 2 ;;
    -*) shift ;;
    *) break ;;
    esac
done
SLURM_STEP_ID=0 SLURM_STEPID=0 exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Hosts:
    """``directory`` holds everything; ``node_tmp`` is the short node-local directory for sockets;
    ``addresses`` maps host names to loopback addresses, all with the same ``port``."""

    directory: Path
    node_tmp: Path
    addresses: dict[str, str]
    port: int

    @property
    def spool(self) -> Path:
        """Scripts of waiting and running jobs."""
        return self.directory / "spool"

    @property
    def controller_socket(self) -> Path:
        """Where the look-alikes find the controller."""
        return self.node_tmp / "slurm.sock"

    @property
    def accounts(self) -> tuple[str, ...]:
        """All accounts of the cluster."""
        return (*USERS, OBSERVER, TUNNEL)

    def home(self, user: str) -> Path:
        """The home directory of ``user``, the same on all hosts."""
        return self.directory / "home" / user

    def commands(self, user: str) -> Path:
        """The directory of look-alikes of ``user``."""
        return self.directory / "bin" / user

    def session_environment(self, user: str) -> dict[str, str]:
        """What a fresh session of ``user`` finds in its environment."""
        return {
            "HOME": str(self.home(user)),
            "LANG": "C.UTF-8",
            "LOGNAME": user,
            "PATH": f"{self.commands(user)}:/usr/local/bin:/usr/bin:/bin",
            # for job scripts that read /etc/profile, which sets PATH anew
            "REHEARSAL_COMMANDS": str(self.commands(user)),
            "SHELL": "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh",
            "USER": user,
        }

    def prepare(self) -> None:
        """Make homes and look-alikes; what is in existing homes is kept."""
        for user in self.accounts:
            self.home(user).mkdir(mode=0o700, parents=True, exist_ok=True)
            # a login shell's /etc/profile sets PATH anew
            start_up = self.home(user) / ".profile"
            if not start_up.exists():
                line = f"export PATH={shlex.quote(str(self.commands(user)))}:$PATH\n"
                start_up.write_text(line, encoding="utf-8")
            commands = self.commands(user)
            commands.mkdir(mode=0o700, parents=True, exist_ok=True)
            client = _CLIENT.format(
                python=sys.executable,
                socket=str(self.controller_socket),
            )
            programs = dict.fromkeys(SCHEDULER_COMMANDS, client) | {
                "hostname": _HOSTNAME,
                "whoami": _WHOAMI.format(user=user),
                "id": _ID.format(user=user, accounts="|".join(self.accounts)),
                "srun": _SRUN,
            }
            for name, text in programs.items():
                partial = commands / f".{name}"
                partial.write_text(text, encoding="utf-8")
                partial.chmod(0o700)
                partial.replace(commands / name)
        self.spool.mkdir(mode=0o700, exist_ok=True)

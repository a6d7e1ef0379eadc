"""The launch directory on the cluster: made before the submit, tidied after the end.

Each function is one command as the cluster user. The programs are fixed texts; what varies are
positional arguments, and the agent's source on stdin.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from gateway.errors import ClusterRefused, ClusterUnavailable, RequestRejected
from gateway.launch.cluster import Cluster, build_user_actor
from gateway.launch.states import LaunchRecord
from gateway.text import Text, text

AGENT_FILE: Final = "agent.pyz"
LOG_FILE: Final = "job.log"
LOG_TAIL_BYTES: Final = 16 * 1024
LOGS_KEPT: Final = 10
ABANDONED_DAYS: Final = 30
"""A launch whose agent file and log nobody touched for so long was never tidied, and is over."""

_DIRECTORY: Final = re.compile(r"/[^\x00-\x1f\x7f]{1,4000}")

_EXIT_NO_HOME: Final = 71
_EXIT_NO_DIRECTORY: Final = 72
_EXIT_NOT_WRITTEN: Final = 73
_EXIT_WRONG_UID: Final = 74

# $1 directory below the home, $2 launch id, $3 size of the agent, $4 expected uid or empty
_PREPARE: Final = r"""
umask 077
LC_ALL=C; export LC_ALL
if [ -n "$4" ] && [ "$(id -u)" != "$4" ]; then id >&2; exit 74; fi
cd "${HOME:?}" || exit 71
directory="$(pwd)/$1/launches/$2"
mkdir -p "$directory" || exit 72
chmod 700 "$(pwd)/$1" "$directory" || exit 72
cd "$directory" || exit 72
cat > agent.pyz.new || exit 73
[ "$(wc -c < agent.pyz.new)" -eq "$3" ] || exit 73
chmod 600 agent.pyz.new && mv -f agent.pyz.new agent.pyz || exit 73
printf 'directory=%s\n' "$directory"
"""

# $1 launch directory, $2 number of former launches whose log stays, $3 days. Another launch that
# still has its agent may be alive: it is left alone, until nothing in it was changed for $3 days.
# find(1) counts whole days and drops the fraction; a launch that lives has its log or its
# announcement written at its start, which no walltime leaves so far behind.
_PRUNE: Final = r"""
cd "$1" || exit 0
rm -f agent.pyz agent.pyz.new announcement.json
cd .. || exit 0
kept=0
for name in $(ls -t); do
  case "$name" in *[!0-9a-f]*) continue ;; esac
  [ -d "$name" ] && [ ! -L "$name" ] || continue
  if [ -e "$name/agent.pyz" ]; then
    [ -z "$(find "./$name" ! -mtime "+$3" -print | head -n 1)" ] || continue
    rm -f "./$name/agent.pyz" "./$name/agent.pyz.new" "./$name/announcement.json"
  fi
  kept=$((kept + 1))
  [ "$kept" -le "$2" ] || rm -rf "./$name"
done
"""


async def prepare_directory(cluster: Cluster, record: LaunchRecord) -> str:
    """Make the launch directory (0700), put the agent into it, and return its absolute path.

    Repeatable: after a crash the same directory is prepared again.

    :raises RequestRejected: the home is missing, not writable or full; words for its owner.
    :raises ClusterRefused: the account is another's than the mapping says, or odd output.
    """
    uid = record.cluster_user.uid
    result = await cluster.transport.run(
        build_user_actor(record),
        (
            "/bin/sh",
            "-c",
            _PREPARE,
            "landfall-prepare",
            cluster.profile.launch_directory,
            record.id,
            str(len(cluster.agent_source)),
            "" if uid is None else str(uid),
        ),
        stdin=cluster.agent_source,
        timeout=timedelta(seconds=cluster.patience.command),
    )
    if result.exit_status == _EXIT_WRONG_UID:
        raise ClusterRefused(
            text(
                "The account {user} on {cluster} is not the one that the gateway knows; an admin"
                " must look at the mapping.",
                user=record.cluster_user.name,
                cluster=cluster.name,
            ),
            detail=result.error_text[-300:],
            reason="wrong_uid",
        )
    if result.exit_status != 0:
        raise _refuse(cluster, result.exit_status, result.error_text.strip()[-300:])
    for line in reversed(result.text.splitlines()):
        name, _, value = line.partition("=")
        if name == "directory" and _DIRECTORY.fullmatch(value) and value.endswith(record.id):
            return value
    raise ClusterRefused(
        text("The login node of {cluster} answered in an unexpected way.", cluster=cluster.name),
        detail=result.text[-300:],
        reason="prepare",
    )


async def fetch_log_tail(cluster: Cluster, record: LaunchRecord) -> str:
    """Return the end of the job's log, empty when there is none.

    :raises GatewayError: the login node could not be asked.
    """
    if record.directory is None:
        return ""
    result = await cluster.transport.run(
        build_user_actor(record),
        ("tail", "-c", str(LOG_TAIL_BYTES), f"{record.directory}/{LOG_FILE}"),
        timeout=timedelta(seconds=cluster.patience.command),
        output_limit=2 * LOG_TAIL_BYTES,
    )
    return clean_log(result.text) if result.exit_status == 0 else ""


async def prune_directory(cluster: Cluster, record: LaunchRecord) -> None:
    """Remove all but the log, and the oldest logs of the user's former launches.

    :raises GatewayError: the login node could not be asked, or it did not work.
    """
    if record.directory is None:
        return
    result = await cluster.transport.run(
        build_user_actor(record),
        (
            *("/bin/sh", "-c", _PRUNE, "landfall-prune", record.directory),
            *(str(LOGS_KEPT), str(ABANDONED_DAYS)),
        ),
        timeout=timedelta(seconds=cluster.patience.command),
    )
    if result.exit_status != 0:
        raise ClusterUnavailable(
            text("The launch directory on {cluster} was not tidied.", cluster=cluster.name),
            detail=result.error_text[-300:],
            reason="prune",
        )


def clean_log(tail: str) -> str:
    """Return log text without control characters but line ends and tabs (terminal escapes and
    NULs would reach a terminal or a database that dislikes them)."""
    return "".join(c for c in tail.replace("\r\n", "\n") if c in "\n\t" or c.isprintable())


def _refuse(cluster: Cluster, exit_status: int, said: str) -> RequestRejected:
    if "Disk quota exceeded" in said or "No space left" in said:
        words: Text = text(
            "Your home directory on {cluster} is full. Free some space or files there, then start"
            " again.",
            cluster=cluster.name,
        )
        reason = "home_full"
    elif exit_status == _EXIT_NO_HOME or "HOME" in said:
        words = text(
            "Your home directory on {cluster} cannot be entered. Please tell the help address.",
            cluster=cluster.name,
        )
        reason = "no_home"
    else:
        words = text(
            "The directory {directory} in your home directory on {cluster} cannot be written."
            " Make it writable, then start again. ({said})",
            directory=cluster.profile.launch_directory,
            cluster=cluster.name,
            said=said or f"exit status {exit_status}",
        )
        reason = "home_not_writable"
    return RequestRejected(words, detail=said, reason=reason)

#!/bin/bash
# Written by the gateway for job lf-0123456789abcdef. It holds no secret.

umask 077

landfall_fail() { # code, exit status, words
    printf 'landfall: error %s: %s\n' "$1" "$3" >&2
    exit "$2"
}

landfall_words() { # the first 400 characters of a text, as one plain line
    local words
    words=$(printf '%s' "$1" | tr -s '[:space:][:cntrl:]' ' ')
    printf '%s' "${words:0:400}"
}

# Not a login shell (bash -l): that would run the user's own ~/.bash_profile, and what people keep
# there (another shell, conda, a question) is the most common reason why sessions do not start.
# /etc/profile is the site's own and defines PATH and the module command.
: "${USER:=$(id -un)}" "${LOGNAME:=$USER}" "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
: "${SHELL:=/bin/bash}" "${PATH:=/usr/local/bin:/usr/bin:/bin}"
export USER LOGNAME HOME SHELL PATH
if [ -r /etc/profile ]; then
    # shellcheck source=/dev/null
    . /etc/profile </dev/null
fi

source /opt/site/setup.sh
export OMP_NUM_THREADS="$SLURM_CPUS_ON_NODE"
# The lines above may have switched these on; nothing below is written for them.
set +e +u +x

if ! type module >/dev/null 2>&1; then
    landfall_fail module_command 72 "There is no module command on ${HOSTNAME:-this node}: tell the cluster's support."
fi

landfall_load() { # module
    local status words said
    # Not in a subshell, or the module would be lost: its words take the way through a file.
    said=$(mktemp 2>/dev/null) || said=/dev/null
    module load "$1" </dev/null 2>"$said"
    status=$?
    words=$(cat "$said")
    [ "$said" = /dev/null ] || rm -f "$said"
    if [ -n "$words" ]; then
        printf '%s\n' "$words" >&2
    fi
    # Environment Modules before 4.2 report an unknown module with exit status 0.
    case $words in *'Unable to locate a modulefile'*) status=1 ;; esac
    if [ "$status" -ne 0 ]; then
        landfall_fail module_missing 71 "The module $1 cannot be loaded on ${HOSTNAME:-this node}: $(landfall_words "$words")"
    fi
}
landfall_load StdEnv/2023
landfall_load gcc/12.3
landfall_load python/3.11


cd /home/alice/.local/state/landfall/launches/0123456789abcdef || landfall_fail directory_missing 74 "The launch directory of this job is not there on ${HOSTNAME:-this node}: is the home directory available?"

landfall_python='/usr/bin/python3'
if ! command -v "$landfall_python" >/dev/null 2>&1; then
    landfall_fail agent_python_missing 73 "$landfall_python is not on ${HOSTNAME:-this node}: the admin must set agent_python of this environment."
fi
if ! "$landfall_python" -I -c 'import sys; sys.exit(sys.version_info < (3, 8))'; then
    landfall_fail agent_python_old 73 "$landfall_python does not run or is older than Python 3.8: the admin must set agent_python of this environment."
fi
if [ ! -r /home/alice/.local/state/landfall/agent-1.py ]; then
    landfall_fail agent_missing 73 "The gateway's own program is not in your home directory on ${HOSTNAME:-this node}: start again."
fi

landfall_agent=(
    "$landfall_python" -I /home/alice/.local/state/landfall/agent-1.py
    --launch-id 0123456789abcdef
    --directory /home/alice/.local/state/landfall/launches/0123456789abcdef
    --socket-directory /tmp
    --start-directory=projects/ocean
    --
    /opt/jupyter/bin/jupyterhub-singleuser
    --ServerApp.default_url=/tree
    --HubOAuth.cache_max_age=3600
)
exec "${landfall_agent[@]}"

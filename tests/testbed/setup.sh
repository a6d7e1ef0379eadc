#!/bin/sh
# Installs what the test bed and the end-to-end tests need, on Debian 12, as root.
# Idempotent; starts no service: the bed starts its own daemons in its own namespaces.
set -eu

packages='
slurm-wlm slurmdbd slurm-wlm-mysql-plugin munge mariadb-server
lmod openssh-server openssh-client
nftables iproute2 util-linux procps sudo
gridengine-master gridengine-exec gridengine-client gridengine-common
shellcheck chromium fonts-liberation tcsh
'

if [ "$(id -u)" -ne 0 ]; then
    echo "setup.sh: must run as root (it installs Debian packages)" >&2
    exit 2
fi
if ! command -v apt-get >/dev/null; then
    echo "setup.sh: no apt-get here; the test bed is made for Debian 12" >&2
    exit 2
fi

missing=''
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "test-setup: all packages are there"
    exit 0
fi
echo "test-setup: installing:$missing"

# A policy-rc.d that says no keeps the packages from starting their daemons. One that is there
# already is kept aside and put back.
policy=/usr/sbin/policy-rc.d
kept=''
restore() {
    if [ -n "$kept" ]; then mv -f "$kept" "$policy"; else rm -f "$policy"; fi
}
if [ -e "$policy" ]; then
    kept="$policy.before-test-setup"
    mv -f "$policy" "$kept"
fi
trap restore EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
# No cell for the whole machine: each bed makes its own.
echo 'gridengine-common shared/gridengineconfig boolean false' | debconf-set-selections
# shellcheck disable=SC2086  # a list of words is meant
install() { apt-get install -y -qq --no-install-recommends $missing; }
# Stale package lists are the usual cause of a first failure; refreshing them costs a minute.
install || { apt-get update -qq && install; }
echo "test-setup: done"

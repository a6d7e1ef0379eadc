"""``python -m gateway.rehearsal DIRECTORY``: a rehearsal cluster in the foreground, to try things.

Without ``--user-ca`` it makes an authority in DIRECTORY and certificates for all its accounts.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import asyncssh

from gateway.rehearsal.cluster import HOST_KEY_ALIAS, RehearsalCluster
from gateway.rehearsal.hosts import OBSERVER, TUNNEL, USERS


def _make_authority(directory: Path) -> str:
    """An authority and a day's certificate for each account below ``directory/try``."""
    where = directory / "try"
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = asyncssh.generate_private_key("ssh-ed25519")
    for user in (*USERS, OBSERVER, TUNNEL):
        key = asyncssh.generate_private_key("ssh-ed25519", comment=user)
        certificate = authority.generate_user_certificate(
            key, user, principals=[user], valid_before="+1d", permit_pty=False
        )
        key.write_private_key(where / user)
        (where / user).chmod(0o600)
        certificate.write_certificate(where / f"{user}-cert.pub")
    return authority.export_public_key("openssh").decode()


async def _run(arguments: argparse.Namespace, directory: Path, user_ca: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    cluster = RehearsalCluster(
        directory, user_ca=user_ca, network=arguments.network, port=arguments.port
    )
    await cluster.open()
    try:
        for host, address in cluster.hosts.addresses.items():
            print(f"{host:<6} {address}:{cluster.port}")
        print(f"known_hosts {cluster.known_hosts}")
        if arguments.user_ca is None:
            print(
                f"try: ssh -i {directory}/try/alice -p {cluster.port} -o IdentitiesOnly=yes "
                f"-o UserKnownHostsFile={cluster.known_hosts} -o HostKeyAlias={HOST_KEY_ALIAS} "
                f"alice@{cluster.login_address} sinfo"
            )
        print("Ctrl-C ends it.", flush=True)
        await stop.wait()
    finally:
        await cluster.close()


def main() -> None:
    """Parse the command line and run until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m gateway.rehearsal", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--user-ca", type=Path, help="public key of the user CA")
    parser.add_argument("--network", type=int, help="k of 127.77.k.10")
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    directory: Path = arguments.directory.resolve()
    given: Path | None = arguments.user_ca
    user_ca = _make_authority(directory) if given is None else given.read_text(encoding="utf-8")
    asyncio.run(_run(arguments, directory, user_ca))


if __name__ == "__main__":
    main()

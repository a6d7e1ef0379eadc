"""A rehearsal cluster with an authority of its own, and a plain SSH client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from gateway.profiles.loading import load_profile
from gateway.profiles.models import ClusterProfile
from gateway.rehearsal.cluster import HOST_KEY_ALIAS, RehearsalCluster
from gateway.rehearsal.profile import build_rehearsal_profile
from gateway.transport.base import Actor
from gateway.transport.pool import SshPool


@dataclass(frozen=True)
class Site:
    """An open cluster and the private key of its user authority."""

    cluster: RehearsalCluster
    authority: asyncssh.SSHKey

    def certify(
        self, user: str, *, principals: Sequence[str] | None = None, **options: Any
    ) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
        """A fresh key with a certificate of five minutes."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        options.setdefault("valid_before", "+5m")
        certificate = self.authority.generate_user_certificate(
            key, user, principals=[user] if principals is None else principals, **options
        )
        return key, certificate

    async def connect(
        self,
        user: str,
        *,
        node: str | None = None,
        tunnel: asyncssh.SSHClientConnection | None = None,
        keys: Any = None,
    ) -> asyncssh.SSHClientConnection:
        """Sign in at the login node, or at ``node`` through ``tunnel``."""
        return await asyncssh.connect(
            node or self.cluster.login_address,
            self.cluster.port,
            username=user,
            client_keys=[keys or self.certify(user)],
            known_hosts=str(self.cluster.known_hosts),
            host_key_alias=None if node else HOST_KEY_ALIAS,
            config=None,
            agent_path=None,
            tunnel=tunnel or (),
        )

    async def run(self, user: str, command: str, stdin: str = "") -> tuple[int, str, str]:
        """Run one command on the login node: status, stdout, stderr."""
        async with await self.connect(user) as connection:
            done = await connection.run(command, input=stdin)
        if done.exit_status is None:
            raise AssertionError("no exit status")
        return done.exit_status, str(done.stdout), str(done.stderr)

    async def submit(self, user: str, options: str, script: str = "sleep 60") -> int:
        """Submit a script; its job id."""
        status, out, err = await self.run(
            user, f"sbatch --parsable {options}", f"#!/bin/sh\n{script}\n"
        )
        assert status == 0, err
        return int(out)


@asynccontextmanager
async def open_site(directory: Path, **options: Any) -> AsyncIterator[Site]:
    """Open a cluster in ``directory``; close it at the end."""
    authority = asyncssh.generate_private_key("ssh-ed25519")
    public = authority.export_public_key("openssh").decode()
    cluster = RehearsalCluster(directory, user_ca=public, **options)
    await cluster.open()
    try:
        yield Site(cluster, authority)
    finally:
        await cluster.close()


class SiteCredentials:
    """Certificates straight from the site's authority, as the transport asks for them."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def fetch_client_keys(
        self, actor: Actor, *, node: str | None
    ) -> Sequence[asyncssh.SSHKeyPair]:
        """One key pair with its certificate."""
        pairs = asyncssh.load_keypairs([self._site.certify(actor.name)])
        return [pair for pair in pairs if pair.has_cert]


def open_pool(site: Site, directory: Path, **login: object) -> tuple[ClusterProfile, SshPool]:
    """The site's profile, ``login`` changed in it, and a pool of connections to it."""
    profile = load_profile(build_rehearsal_profile(site.cluster, directory))
    profile = profile.model_copy(update={"login": profile.login.model_copy(update=login)})
    return profile, SshPool(profile, SiteCredentials(site))

"""With what the gateway signs in: short-lived certificates, or a key in a file."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import asyncssh
from asyncssh.public_key import SSHOpenSSHCertificate

from gateway.errors import ClusterRefused, ConfigurationError
from gateway.profiles.models import ClusterProfile, KeyFile
from gateway.text import Text, text
from gateway.transport.base import Actor, Role

# A certificate is used for new connections until this part of its remaining life has passed.
_USED_FOR: Final = 2 / 3


class CredentialProvider(Protocol):
    """Gives the keys with which one connection signs in.

    ``node`` is set when the connection goes to a compute node. Raises only ``GatewayError``.
    """

    async def fetch_client_keys(
        self, actor: Actor, *, node: str | None
    ) -> Sequence[asyncssh.SSHKeyPair]: ...


class CertificateSigner(Protocol):
    """What :class:`SignedCertificates` needs of the signer's client."""

    async def sign(
        self, *, public_key: str, cluster: str, role: str, principal: str, forwarding: bool
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class _Cached:
    keys: tuple[asyncssh.SSHKeyPair, ...]
    use_until: float


class SignedCertificates:
    """Fresh ed25519 keys, made in memory and certified by the signer.

    Forwarding is asked for the tunnel role, for compute nodes, and, with ``users_forward`` (no
    tunnel account in the profile), for users on the login node.
    """

    def __init__(
        self, signer: CertificateSigner, cluster: str, *, users_forward: bool = False
    ) -> None:
        self._signer = signer
        self._cluster = cluster
        self._users_forward = users_forward
        self._cache: dict[tuple[Actor, bool], _Cached] = {}

    async def fetch_client_keys(
        self, actor: Actor, *, node: str | None
    ) -> Sequence[asyncssh.SSHKeyPair]:
        """Return one key pair with its certificate; see :class:`CredentialProvider`."""
        forwarding = (
            node is not None
            or actor.role is Role.TUNNEL
            or (actor.role is Role.USER and self._users_forward)
        )
        now = time.time()
        cached = self._cache.get((actor, forwarding))
        if cached is not None and now < cached.use_until:
            return list(cached.keys)
        key = asyncssh.generate_private_key("ssh-ed25519")
        line = await self._signer.sign(
            public_key=key.export_public_key("openssh").decode().strip(),
            cluster=self._cluster,
            role=actor.role.value,
            principal=actor.name,
            forwarding=forwarding,
        )
        certificate = check_certificate(line, key, actor.name, now=time.time())
        # Only with its certificate: the bare key would cost a refused attempt (MaxAuthTries).
        keys = tuple(p for p in asyncssh.load_keypairs([(key, certificate)]) if p.has_cert)
        use_until = now + (certificate_end(certificate) - now) * _USED_FOR
        self._cache = {k: v for k, v in self._cache.items() if v.use_until > now}
        self._cache[(actor, forwarding)] = _Cached(keys, use_until)
        # asyncssh takes a tuple for one key with its certificate.
        return list(keys)


def certificate_end(certificate: asyncssh.SSHCertificate) -> float:
    """Return the end of its validity, in seconds since the epoch."""
    # asyncssh keeps the bounds private and otherwise only raises when they are not met.
    return float(vars(certificate)["_valid_before"])


def check_certificate(
    line: str, key: asyncssh.SSHKey, principal: str, *, now: float
) -> asyncssh.SSHCertificate:
    """Parse an OpenSSH certificate and check that it is for this key and principal, now.

    sshd says no more than "permission denied" to a bad one, so it is looked at here.

    :raises ClusterRefused: reason ``certificate``.
    """
    try:
        certificate = asyncssh.import_certificate(line)
    except asyncssh.KeyImportError as exc:
        raise _bad_certificate(f"not a certificate: {exc}") from exc
    if not isinstance(certificate, SSHOpenSSHCertificate):
        raise _bad_certificate("not an OpenSSH certificate")
    values = vars(certificate)
    if certificate.key != key.convert_to_public():
        raise _bad_certificate("it is for another key")
    if tuple(certificate.principals) != (principal,):
        raise _bad_certificate("it is for another account")
    if not values["_valid_after"] <= now < values["_valid_before"]:
        raise _bad_certificate("it is not valid at this time; compare the clocks")
    return certificate


def _bad_certificate(detail: str) -> ClusterRefused:
    return ClusterRefused(
        text("The signer's certificate cannot be used. An admin must look at the signer."),
        detail=detail,
        reason="certificate",
    )


class KeyFileCredentials:
    """A private key that lies in a file; a certificate beside it (``-cert.pub``) is used too.

    The file is read at each connection, so that it can be replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch_client_keys(
        self, actor: Actor, *, node: str | None
    ) -> Sequence[asyncssh.SSHKeyPair]:
        """Return the keys of the file; see :class:`CredentialProvider`."""
        return await asyncio.to_thread(self._load)

    def _load(self) -> Sequence[asyncssh.SSHKeyPair]:
        try:
            status = self._path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise self._fault(text("it must be a file that only its owner can read (0600)"))
            if status.st_uid not in (0, os.geteuid()):
                raise self._fault(text("it must belong to root or to the gateway's own account"))
            return asyncssh.load_keypairs([str(self._path)])
        except OSError as exc:
            raise self._fault(text("it cannot be read"), str(exc)) from exc
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
            raise self._fault(
                text("it holds no private key that can be used without a passphrase"), str(exc)
            ) from exc

    def _fault(self, why: Text, detail: str = "") -> ConfigurationError:
        return ConfigurationError(
            text("The key file {path} cannot be used: {why}.", path=str(self._path), why=why),
            detail=detail,
            reason="key_file",
        )


class RoleCredentials:
    """Chooses by role: what the cluster profile says for each."""

    def __init__(
        self,
        user: CredentialProvider,
        observer: CredentialProvider,
        tunnel: CredentialProvider | None,
    ) -> None:
        self._by_role = {Role.USER: user, Role.OBSERVER: observer, Role.TUNNEL: tunnel or user}

    async def fetch_client_keys(
        self, actor: Actor, *, node: str | None
    ) -> Sequence[asyncssh.SSHKeyPair]:
        """Return the keys of the actor's role; see :class:`CredentialProvider`."""
        return await self._by_role[actor.role].fetch_client_keys(actor, node=node)


def build_credentials(profile: ClusterProfile, signer: CertificateSigner) -> CredentialProvider:
    """Build the provider that the roles of ``profile`` ask for."""
    roles = profile.roles
    signed = SignedCertificates(signer, profile.name, users_forward=roles.tunnel is None)

    def build(credential: object) -> CredentialProvider:
        return KeyFileCredentials(credential.path) if isinstance(credential, KeyFile) else signed

    return RoleCredentials(
        user=signed,
        observer=build(roles.observer.credential),
        tunnel=None if roles.tunnel is None else build(roles.tunnel.credential),
    )

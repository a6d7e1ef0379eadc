"""The key of the authority: making it, loading it, certifying with it.

Certificate fields: PROTOCOL.certkeys of OpenSSH; authorized_keys options: sshd(8).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncssh

from gateway.errors import ConfigurationError
from gateway.signer.policy import SignRequest, refuse
from gateway.text import Text, text
from gateway.values.identity import CLUSTER_USER_NAME

LIFETIME_LIMIT: Final = timedelta(minutes=5)
# Certificates begin a minute early, for clusters whose clock is behind. A certificate is thus
# valid for its lifetime plus this: six minutes at most, of which five lie ahead.
BACKDATING: Final = timedelta(seconds=60)
_PUBLIC_KEY: Final = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]{60,120}( [^\r\n]{0,200})?", re.ASCII)


def generate_authority(path: Path) -> str:
    """Make a new authority: the private key at ``path`` (0600), the public one at ``path.pub``.

    Returns the public line. The signer's account must own the private key.

    :raises ConfigurationError: it exists already, or cannot be written.
    """
    key = asyncssh.generate_private_key("ssh-ed25519", comment="landfall user authority")
    public = key.export_public_key("openssh")
    try:
        for target, mode, content in (
            (path, 0o600, key.export_private_key("openssh")),
            (path.with_name(f"{path.name}.pub"), 0o644, public),
        ):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(target, flags, mode), "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
    except FileExistsError as exc:
        raise _fault(path, text("it exists already and is not overwritten")) from exc
    except OSError as exc:
        raise _fault(path, text("it cannot be written"), str(exc)) from exc
    return public.decode("ascii").strip()


def load_authority(path: Path) -> asyncssh.SSHKey:
    """Load the private key of the authority.

    :raises ConfigurationError: unless it is a plain file of mode 0600 (or 0400) that belongs to
        the process's own account and holds a key without a passphrase.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o177:
                raise _fault(path, text("only its owner may read it: chmod 0600"))
            if status.st_uid != os.geteuid():
                raise _fault(
                    path, text("it must belong to the account of the signer: chown it to it")
                )
            content = stream.read(64 * 1024)
    except OSError as exc:
        raise _fault(path, text("it cannot be read"), str(exc)) from exc
    try:
        return asyncssh.import_private_key(content)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise _fault(path, text("it holds no private key without a passphrase"), str(exc)) from exc


def parse_public_key(line: str) -> asyncssh.SSHKey:
    """Parse an ed25519 public key in OpenSSH's one-line form; the comment is not looked at.

    :raises ClusterRefused: it is anything else.
    """
    if not _PUBLIC_KEY.fullmatch(line):
        raise refuse("not an ed25519 public key", "signer_request")
    try:
        return asyncssh.import_public_key(" ".join(line.split(" ", 2)[:2]))
    except asyncssh.KeyImportError as exc:
        raise refuse("not an ed25519 public key", "signer_request") from exc


def build_key_id(request: SignRequest, serial: int) -> str:
    """``landfall:<cluster>:<role>:<principal>:<serial, hexadecimal>``; sshd logs it."""
    return f"landfall:{request.cluster}:{request.role}:{request.principal}:{serial:016x}"


def certify(
    authority: asyncssh.SSHKey,
    request: SignRequest,
    *,
    lifetime: timedelta,
    source_addresses: Sequence[str],
    serial: int,
    now: int,
) -> str:
    """Return the OpenSSH certificate line for a request that the policy has passed.

    ``now`` is in seconds since the epoch. Nothing but port forwarding is ever permitted in it.
    """
    key = parse_public_key(request.public_key)
    ahead = min(lifetime, LIFETIME_LIMIT)
    certificate = authority.generate_user_certificate(
        key,
        build_key_id(request, serial),
        serial=serial,
        principals=[request.principal],
        valid_after=now - int(BACKDATING.total_seconds()),
        valid_before=now + int(ahead.total_seconds()),
        source_address=list(source_addresses) or None,
        permit_x11_forwarding=False,
        permit_agent_forwarding=False,
        permit_port_forwarding=request.forwarding,
        permit_pty=False,
        permit_user_rc=False,
    )
    return certificate.export_certificate("openssh").decode("ascii").strip()


def build_authorized_keys_line(ca_public_key: str, principal: str) -> str:
    """Build the line with which one user trusts the authority in their own ``authorized_keys``,
    where a site cannot set ``TrustedUserCAKeys``. Exactly one principal: their own account.

    ``restrict`` takes away whatever a key may do beside running commands; forwarding is given
    back, for the tunnel runs as this user then.

    :raises ValueError: not an account name, or not a public key.
    """
    if not CLUSTER_USER_NAME.fullmatch(principal):
        raise ValueError(f"{principal!r} is not an account name")
    try:
        key = asyncssh.import_public_key(ca_public_key.strip())
    except asyncssh.KeyImportError as exc:
        raise ValueError("not the public key of an authority") from exc
    public = " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])
    return f'cert-authority,restrict,port-forwarding,principals="{principal}" {public}'


def _fault(path: Path, why: Text, detail: str = "") -> ConfigurationError:
    return ConfigurationError(
        text("The key of the signer, {path}, cannot be used: {why}.", path=str(path), why=why),
        detail=detail,
        reason="ca_key",
    )

"""What a host shows as its key, beside what is expected of it: for people who must compare."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncssh

from gateway.errors import GatewayError
from gateway.profiles.models import ClusterProfile, LoginHost
from gateway.text import Text, text
from gateway.transport.connecting import load_known_hosts
from gateway.transport.failures import ssh_failures


@dataclass(frozen=True, slots=True)
class HostKeys:
    """``seen`` is the key that the host shows (``None``: it showed none), ``line`` the line of
    known_hosts that would accept it; ``expected`` are fingerprints, ``authorities`` those of
    host-certificate authorities that would be accepted too."""

    name: str
    seen: str | None
    line: str | None
    expected: tuple[str, ...]
    authorities: tuple[str, ...]


async def fetch_host_keys(
    profile: ClusterProfile,
    host: LoginHost,
    via: asyncssh.SSHClientConnection | None,
) -> HostKeys:
    """Shake hands without any sign-in, and look the host up in the profile's known_hosts.

    :raises GatewayError: it cannot be reached, or known_hosts cannot be used.
    """
    known = await asyncio.to_thread(load_known_hosts, profile.login.known_hosts)
    name = profile.login.host_key_alias or host.host
    host_keys, authorities, *_ = known.match(name, "", host.port)
    with ssh_failures(text("login node {host}", host=host.host)):
        async with asyncio.timeout(profile.login.connect_timeout.total_seconds()):
            seen = await asyncssh.get_server_host_key(
                host.host, host.port, tunnel=via or (), config=None
            )
    shown = f"[{name}]:{host.port}" if host.port != 22 else name
    line = None
    if seen is not None:
        words = seen.export_public_key("openssh").decode().split()
        line = f"{shown} {words[0]} {words[1]}"
    return HostKeys(
        name=name,
        seen=None if seen is None else _describe(seen),
        line=line,
        expected=tuple(_describe(key) for key in host_keys),
        authorities=tuple(_describe(key) for key in authorities),
    )


async def explain_host_key(
    profile: ClusterProfile, host: LoginHost, via: asyncssh.SSHClientConnection | None
) -> tuple[Text, ...]:
    """Return what to compare and what to write, for a host whose key was not accepted."""
    path = str(profile.login.known_hosts)
    try:
        keys = await fetch_host_keys(profile, host, via)
    except GatewayError as error:
        return (text("Its key could not be looked at again: {why}", why=str(error)),)
    expected = ", ".join(
        (*keys.expected, *(f"@cert-authority {found}" for found in keys.authorities))
    )
    lines = [
        text(
            "It shows {seen}; {path} expects {expected} for {name}.",
            seen=keys.seen or "no key",
            path=path,
            expected=expected or "nothing",
            name=keys.name,
        )
    ]
    if keys.line is not None:
        lines.append(
            text(
                "Ask the cluster's staff for the fingerprint by another way than this network. "
                "Only when it is the one shown, write this line into {path}: {line}",
                path=path,
                line=keys.line,
            )
        )
    return tuple(lines)


def _describe(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"

"""Login nodes: reachable, with the expected key, and open to each account by certificate alone."""

from __future__ import annotations

import asyncio

import asyncssh

from gateway.doctor.findings import Finding, fail, ok, skipped
from gateway.doctor.host_keys import explain_host_key
from gateway.doctor.subject import Subject
from gateway.errors import GatewayError
from gateway.profiles.models import LoginHost
from gateway.text import Text, text
from gateway.transport.base import Actor
from gateway.transport.connecting import close_connection, load_known_hosts, open_connection
from gateway.transport.failures import (
    DROPPED,
    HOST_KEY,
    NAME_UNKNOWN,
    REFUSED,
    SECOND_FACTOR,
    SIGN_IN,
    TIMEOUT,
    UNREACHABLE,
)

# The host was reached and its key accepted: the sign-in is another station's matter.
_INSIDE = frozenset({SIGN_IN.reason, SECOND_FACTOR.reason, "sign_in_paused"})


async def check_host(subject: Subject, host: LoginHost) -> Finding:
    """Reach one login host and verify its key."""
    if subject.observer in subject.unsigned:
        error = await _knock(subject, host)
    else:
        error = await subject.try_sign_in(host, subject.observer)
    if error is None or error.reason in _INSIDE:
        return ok(text("reached; its host key is the expected one"))
    remedies: tuple[Text, ...] = ()
    if error.reason == HOST_KEY.reason:
        remedies = await explain_host_key(subject.profile, host, await _find_bastion(subject))
    elif error.reason in _REACHING:
        remedies = (_REACHING[error.reason],)
    return fail(error.user_message, *remedies, detail=error.detail)


async def _knock(subject: Subject, host: LoginHost) -> GatewayError | None:
    """Shake hands with no key to sign in with: sshd refuses that, after we verified its key."""
    profile = subject.profile
    if profile.login.bastion is not None:
        return None  # entered with a certificate only; the sign-in tells
    where = text("login node {host}", host=host.host)
    try:
        connection, _ = await open_connection(
            host.host,
            host.port,
            where,
            user=subject.observer.name,
            keys=[],
            known_hosts=await asyncio.to_thread(load_known_hosts, profile.login.known_hosts),
            timeout=profile.login.connect_timeout.total_seconds(),
            alias=profile.login.host_key_alias,
        )
    except GatewayError as error:
        return error
    await close_connection(connection)
    return None


async def _find_bastion(subject: Subject) -> asyncssh.SSHClientConnection | None:
    bastion = subject.profile.login.bastion
    if bastion is None or subject.tunnel is None:
        return None
    login = subject.profile.login.model_copy(update={"hosts": (bastion,), "bastion": None})
    return await subject.open_pool(subject.profile.model_copy(update={"login": login})).login(
        subject.tunnel
    )


async def check_sign_in(subject: Subject, actor: Actor) -> Finding:
    """Sign in as ``actor`` at every login host that can be reached."""
    hosts = []
    for host in subject.profile.login.hosts:
        error = await subject.try_sign_in(host, actor)
        if error is None:
            hosts.append(host.host)
        elif error.reason in _INSIDE:
            return fail(
                error.user_message, *_explain_refusal(subject, actor, error), detail=error.detail
            )
    if not hosts:
        return skipped(text("no login node could be reached"))
    names = ", ".join(hosts)
    if subject.uses_certificates(actor):
        return ok(text("admitted by certificate alone at {hosts}", hosts=names))
    return ok(text("admitted by key alone at {hosts}", hosts=names))


def _explain_refusal(subject: Subject, actor: Actor, error: GatewayError) -> tuple[Text, ...]:
    if error.reason == SECOND_FACTOR.reason:
        return (
            text(
                "The certificate was accepted and then more was asked for: sshd calls it partial "
                "success. Ask for a login host, or for a Match block in sshd_config, where "
                "AuthenticationMethods is publickey for the gateway's certificates."
            ),
        )
    return explain_sign_in(subject, actor)


def explain_sign_in(subject: Subject, actor: Actor) -> tuple[Text, ...]:
    """The four usual causes of a refused sign-in; sshd tells none of them to a client."""
    if not subject.uses_certificates(actor):
        return (
            text(
                "The key of this role may be missing in the account's authorized_keys; the sshd's "
                "log says which key was refused."
            ),
        )
    return (
        text(
            "1. sshd does not trust the gateway's authority: TrustedUserCAKeys is missing in its "
            "sshd_config, or names a file without the key {authority} (ssh-keygen -lf FILE).",
            authority=subject.authority or "?",
        ),
        text(
            "2. The account {account} does not exist there, is locked, or is shut out (AllowUsers, "
            "AllowGroups, DenyUsers, AuthorizedPrincipalsFile, access.conf).",
            account=actor.name,
        ),
        text(
            "3. The clocks differ: a certificate is valid for {minutes} minutes by this host's "
            "clock. Compare date -u here and there.",
            minutes=round(subject.settings.signer.lifetime.total_seconds() / 60, 1),
        ),
        text(
            "4. sshd sees another source address than signer.source_addresses names ({addresses}).",
            addresses=", ".join(subject.settings.signer.source_addresses) or "-",
        ),
        text("The log of that sshd (journalctl -u ssh) says which of them it is."),
    )


_REACHING = {
    NAME_UNKNOWN.reason: text("Check login.hosts of the profile and the DNS of this host."),
    REFUSED.reason: text("Check the port in login.hosts, and that sshd runs there."),
    TIMEOUT.reason: text("A firewall may drop packets between this host and the login node."),
    UNREACHABLE.reason: text("Check the route and the firewall between this host and that one."),
    DROPPED.reason: text(
        "Look at the log of that sshd. When known_hosts names only a kind of key that the host "
        "does not have, write the one it has: ssh-keyscan shows it."
    ),
}

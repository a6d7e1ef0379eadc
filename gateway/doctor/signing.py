"""The signer: whether it answers, and would sign for an account."""

from __future__ import annotations

import time

import asyncssh

from gateway.doctor.findings import Finding, fail, ok
from gateway.doctor.subject import Subject
from gateway.errors import GatewayError
from gateway.text import Text, text
from gateway.transport.base import Actor, Role
from gateway.transport.credentials import check_certificate


async def check_signed(subject: Subject, actor: Actor) -> Finding:
    """Have a certificate signed for a fresh key that is thrown away."""
    if not subject.uses_certificates(actor):
        return ok(text("{account} signs in with a key file", account=actor.name))
    key = asyncssh.generate_private_key("ssh-ed25519")
    try:
        line = await subject.signer.sign(
            public_key=key.export_public_key("openssh").decode().strip(),
            cluster=subject.profile.name,
            role=actor.role.value,
            principal=actor.name,
            forwarding=actor.role is not Role.OBSERVER,
        )
        _note_authority(subject, line, key, actor)
    except GatewayError as error:
        subject.unsigned.add(actor)
        remedies = tuple(_find_remedies(subject, actor, error))
        return fail(error.user_message, *remedies, detail=error.detail)
    return ok(text("would sign for {account}", account=actor.name))


def _note_authority(subject: Subject, line: str, key: asyncssh.SSHKey, actor: Actor) -> None:
    certificate = check_certificate(line, key, actor.name, now=time.time())
    subject.authority = vars(certificate)["signing_key"].get_fingerprint()


def _find_remedies(subject: Subject, actor: Actor, error: GatewayError) -> list[Text]:
    settings = subject.settings
    match error.reason:
        case "signer_refused" if "never signed" in error.detail:
            return [
                text(
                    "{account} is an account of the system, or is listed under deny in the "
                    "allow-list; use another account.",
                    account=actor.name,
                )
            ]
        case "signer_refused":
            key = "users" if actor.role is Role.USER else actor.role.value
            return [
                text(
                    "Add the account to the signer's allow-list {path}; it counts at once: {line}",
                    path=str(settings.signer.allow_list or "(signer.allow_list)"),
                    line=f"clusters: {{{subject.profile.name}: {{{key}: [{actor.name}]}}}}",
                )
            ]
        case "signer_client" | "signer_socket":
            return [
                text(
                    "Run this command under the account of the connector, whose uid is in "
                    "signer.clients of the settings."
                )
            ]
        case "signer_unavailable":
            return [
                text(
                    "Start the signer (gateway signer --config {config}); its socket is {socket}.",
                    config=str(subject.question.config),
                    socket=str(settings.signer_socket),
                )
            ]
        case "certificate":
            return [text("Compare the clock of the signer's host with the one of this host.")]
        case _:
            return []

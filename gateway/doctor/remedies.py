"""What to do about failures on compute nodes. Pure."""

from __future__ import annotations

from typing import Final

from gateway.doctor.login_nodes import explain_sign_in
from gateway.doctor.subject import Subject
from gateway.errors import GatewayError
from gateway.text import Text, text
from gateway.transport.base import Actor
from gateway.transport.failures import (
    CONNECT_FAILED,
    DISCONNECTED,
    DROPPED,
    HOST_KEY,
    LISTENER,
    LOST,
    PROHIBITED,
    SECOND_FACTOR,
    SIGN_IN,
)


def explain_node(
    subject: Subject, actor: Actor, node: str, error: GatewayError
) -> tuple[Text, ...]:
    """Why a user is not let in at the compute node of a running job."""
    profile = subject.profile
    if error.reason in (SIGN_IN.reason, DISCONNECTED.reason, LOST.reason):
        return (
            text(
                "Compute nodes must trust the gateway's authority (TrustedUserCAKeys) as the login "
                "node does, and admit users with a job there (pam_slurm_adopt)."
            ),
            *explain_sign_in(subject, actor),
        )
    if error.reason == SECOND_FACTOR.reason:
        return (
            text(
                "Compute nodes must admit users by certificate alone: AuthenticationMethods "
                "publickey in their sshd_config."
            ),
        )
    if error.reason in (HOST_KEY.reason, DROPPED.reason):
        return (
            text(
                "{path} must hold the key of {name}, or a line @cert-authority for compute nodes; "
                "ssh-keyscan, run on the login node, shows the key to compare.",
                path=str(profile.login.known_hosts),
                name=profile.tunnel.node_address.replace("{node}", node),
            ),
        )
    if error.reason in _NODE:
        return (_NODE[error.reason],)
    return ()


def explain_tunnel(error: GatewayError) -> tuple[Text, ...]:
    """Why a tunnel to a running agent cannot be opened."""
    found = _TUNNEL.get(error.reason)
    return () if found is None else (found,)


def explain_end(reason: str, environment: str) -> tuple[Text, ...]:
    """What an admin does about a test job that ended too early; ``reason`` as in job logs."""
    if reason in ("module_missing", "module_command", "command_not_found"):
        return (
            text(
                "Correct modules, setup or command of environments.{environment} in the profile.",
                environment=environment,
            ),
        )
    if reason in ("agent_python_missing", "agent_python_old"):
        return (
            text(
                "Set agent_python of environments.{environment} to a Python 3.8 or later that is "
                "on compute nodes.",
                environment=environment,
            ),
        )
    return ()


_STREAMS: Final = text(
    "Set AllowStreamLocalForwarding yes (not only local or remote) in sshd_config of compute nodes."
)
_NODE: Final = {
    PROHIBITED.reason: text(
        "The login node's sshd refuses to forward to compute nodes: AllowTcpForwarding, PermitOpen."
    ),
    CONNECT_FAILED.reason: text(
        "The login node could not connect to that node's sshd: check tunnel.node_address and "
        "tunnel.compute_port of the profile, and the node's firewall."
    ),
}
_TUNNEL: Final = {PROHIBITED.reason: _STREAMS, LISTENER.reason: _STREAMS}

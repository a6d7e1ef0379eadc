"""Forwarding through the login node to the sshd of a compute node, as every tunnel does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from gateway.doctor.findings import Finding, fail, ok, warn
from gateway.doctor.subject import Subject
from gateway.errors import GatewayError
from gateway.schedulers.slurm.cluster_parsers import parse_nodes
from gateway.schedulers.slurm.commands import SlurmCommands
from gateway.text import Text, text
from gateway.transport.base import Actor
from gateway.transport.failures import CONNECT_FAILED, PROHIBITED, ssh_failures

NODES_TRIED: Final = 3
TIMEOUT_SECONDS: Final = 15.0


async def check_forwarding(subject: Subject, actor: Actor) -> Finding:
    """Dial a few compute nodes' sshd through the login node, without signing in there."""
    if subject.profile.scheduler.kind != "slurm":
        return ok(text("tried with the test job"))
    nodes = await _fetch_nodes(subject)
    if not nodes:
        return warn(text("no compute node is up to try it with"))
    for node in nodes:
        try:
            banner = await _dial(subject, actor, node)
        except GatewayError as error:
            if error.reason != CONNECT_FAILED.reason or node == nodes[-1]:
                return fail(
                    error.user_message, *_explain(subject, actor, error), detail=error.detail
                )
        else:
            return _judge(subject, actor, node, banner)
    raise AssertionError("the last node returns")


def _judge(subject: Subject, actor: Actor, node: str, banner: bytes) -> Finding:
    port = subject.profile.tunnel.compute_port
    if not banner.startswith(b"SSH-"):
        return fail(
            text("what answers on {node} port {port} is no SSH server", node=node, port=port),
            text("Correct tunnel.compute_port in the profile."),
            detail=ascii(banner[:40]),
        )
    return ok(text("{account} reaches the sshd of {node}", account=actor.name, node=node))


async def _dial(subject: Subject, actor: Actor, node: str) -> bytes:
    tunnel = subject.profile.tunnel
    address = tunnel.node_address.replace("{node}", node)
    async with subject.pool.lease(actor) as lease:
        with ssh_failures(lease.where):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reader, writer = await lease.connection.open_connection(
                    address, tunnel.compute_port, encoding=None
                )
                try:
                    return bytes(await reader.readline())
                finally:
                    writer.channel.abort()


async def _fetch_nodes(subject: Subject) -> tuple[str, ...]:
    commands = SlurmCommands(subject.profile.scheduler.bin_directory)
    result = await subject.transport.run(
        subject.observer, commands.build_nodes(), timeout=timedelta(seconds=30)
    )
    rows = [row for row in parse_nodes(result.text) if row.partition in subject.profile.partitions]
    return tuple(dict.fromkeys(row.node for row in rows if row.usable))[:NODES_TRIED]


def _explain(subject: Subject, actor: Actor, error: GatewayError) -> tuple[Text, ...]:
    if error.reason == PROHIBITED.reason:
        return (
            text(
                "Its sshd answered administratively prohibited. Allow it for {account} in "
                "sshd_config of the login node: Match User {account}, AllowTcpForwarding local "
                "(or yes), PermitOpen not narrower than the compute nodes' port {port}; "
                "DisableForwarding must not be set.",
                account=actor.name,
                port=subject.profile.tunnel.compute_port,
            ),
        )
    if error.reason == CONNECT_FAILED.reason:
        return (
            text(
                "The login node could not connect to {address}, port {port}: check "
                "tunnel.node_address and tunnel.compute_port of the profile, and that sshd runs on "
                "compute nodes and their firewall admits the login node.",
                address=subject.profile.tunnel.node_address,
                port=subject.profile.tunnel.compute_port,
            ),
        )
    return ()

"""``gateway launches``: what the connector knows of launches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import click

from gateway.cli.options import config_option
from gateway.connector.client import ConnectorClient
from gateway.connector.models import LaunchView
from gateway.errors import ClusterUnavailable
from gateway.settings import load_settings
from gateway.text import text

T = TypeVar("T")


@click.group()
def launches() -> None:
    """List, show and cancel launches."""


@launches.command("list")
@config_option
@click.option("--user", default=None, help="Only launches of this hub user.")
@click.option("--all", "everything", is_flag=True, help="Ended launches too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_launches(config: Path, *, user: str | None, everything: bool, as_json: bool) -> None:
    """List launches, newest first."""

    async def fetch(client: ConnectorClient) -> list[LaunchView]:
        return await client.launches(user=user, live=None if everything else True)

    views = _ask(config, fetch)
    if as_json:
        for view in views:
            click.echo(view.model_dump_json())
        return
    if not views:
        click.echo("no launches" if everything else "no live launches (ended ones: --all)")
        return
    row = "{:<17} {:<12} {:<12} {:<12} {:<12} {:<10} {:<12} {}"
    click.echo(row.format("ID", "CLUSTER", "USER", "SERVER", "STATE", "JOB", "NODE", "SINCE"))
    for view in views:
        click.echo(
            row.format(
                view.id, view.cluster, view.user, view.server_name or "-", view.state,
                view.job_id or "-", view.node or "-", _time(view.changed_at),
            )
        )  # fmt: skip


@launches.command()
@config_option
@click.argument("launch_id")
@click.option("--json", "as_json", is_flag=True, help="The whole view as JSON.")
def show(config: Path, launch_id: str, *, as_json: bool) -> None:
    """Show one launch with its history."""
    view = _ask(config, lambda client: client.launch(launch_id))
    if as_json:
        click.echo(view.model_dump_json(indent=2))
        return
    facts = {
        "launch": view.id,
        "cluster": view.cluster,
        "hub user, server": f"{view.user}, {view.server_name or '(default)'}",
        "cluster user": view.cluster_user,
        "state": f"{view.state}: {view.words.en}",
        "job, node": f"{view.job_id or '-'}, {view.node or '-'}",
        "edge": f"{view.edge.ip}:{view.edge.port}",
        "asked for": json.dumps(view.options),
        "tunnel": "up" if view.tunnel_up else "down",
    }
    for name, value in facts.items():
        click.echo(f"{name:<18} {value}")
    for line in view.history:
        by = f" (by {line.by})" if line.by else ""
        click.echo(f"  {_time(line.at)}  {line.state:<12} {line.words.en}{by}")
    if view.end and view.end.log_tail:
        click.echo("the end of its log:")
        click.echo(view.end.log_tail)


@launches.command()
@config_option
@click.argument("launch_id")
def cancel(config: Path, launch_id: str) -> None:
    """Cancel a launch and its job."""
    import getpass

    view = _ask(config, lambda client: client.stop(launch_id, by=f"admin:{getpass.getuser()}"))
    click.echo(f"{view.id}: {view.state}: {view.words.en}")


def _ask(config: Path, question: Callable[[ConnectorClient], Awaitable[T]]) -> T:
    socket = load_settings(config).connector_socket

    async def ask() -> T:
        async with ConnectorClient(socket) as client:
            try:
                return await question(client)
            except ClusterUnavailable as error:
                if error.reason != "connector_unavailable":
                    raise
                raise ClusterUnavailable(
                    text(
                        "The connector does not answer at {socket}. If it does not run, start it: "
                        "gateway connector --config {config} (or gateway up, which starts all).",
                        socket=str(socket),
                        config=str(config),
                    ),
                    detail=error.detail,
                    reason=error.reason,
                ) from error

    return asyncio.run(ask())


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")

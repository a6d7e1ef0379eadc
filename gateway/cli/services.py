"""``gateway connector`` and ``gateway signer``: the processes that a service manager runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from gateway.cli.options import config_option
from gateway.settings import load_settings


@click.command()
@config_option
def connector(config: Path) -> None:
    """Run the connector: launches, the job monitor, the tunnels."""
    # Not at the top: the signer must not load what the connector needs.
    from gateway.connector.app import run

    run(load_settings(config))


@click.command()
@config_option
def signer(config: Path) -> None:
    """Run the signer: the SSH user-certificate authority, and nothing else."""
    from gateway.signer.server import serve

    asyncio.run(serve(load_settings(config)))

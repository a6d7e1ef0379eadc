"""The ``gateway`` command group."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from gateway import __version__
from gateway.cli.doctor import doctor
from gateway.cli.launches import launches
from gateway.cli.options import config_option
from gateway.cli.up import up
from gateway.errors import ConfigurationError, GatewayError
from gateway.settings import load_settings


class Group(click.Group):
    """Shows our own errors as sentences; exit status 1, or 78 for a fault of configuration."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; see the class."""
        try:
            return super().invoke(ctx)
        except GatewayError as error:
            click.echo(f"gateway: {error.user_message.render()}", err=True)
            if error.detail:
                click.echo(error.detail, err=True)
            sys.exit(78 if isinstance(error, ConfigurationError) else 1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """Landfall: JupyterLab as a batch job on an HPC cluster, reached over SSH."""


@click.command()
@config_option
def connector(config: Path) -> None:
    """Run the connector: launches, the job monitor, the tunnels."""
    from gateway.connector.app import run

    run(load_settings(config))


@click.command()
@config_option
def signer(config: Path) -> None:
    """Run the signer: the SSH user-certificate authority, and nothing else."""
    from gateway.signer.server import serve

    asyncio.run(serve(load_settings(config)))


for command in (up, connector, signer, launches, doctor):
    main.add_command(command)

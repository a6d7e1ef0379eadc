"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

DEFAULT_CONFIG: Final = Path("/etc/landfall/gateway.yml")

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    envvar="GATEWAY_SETTINGS",
    show_default=True,
    show_envvar=True,
    help="The settings file.",
)

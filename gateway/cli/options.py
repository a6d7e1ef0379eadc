"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from gateway.text import LANGUAGES, Language

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


def find_language() -> Language:
    """The language of this terminal, as its locale says (locale(7): the first of these that is
    set counts)."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    chosen = next((name for name in names if name), "")
    return next((known for known in LANGUAGES if chosen.split("_")[0] == known), "en")

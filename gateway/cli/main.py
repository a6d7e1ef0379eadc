"""The ``gateway`` command group. A command's module is imported when it is called for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Final

import click

from gateway import __version__

_MODULES: Final = {
    "up": "up",
    "connector": "services",
    "signer": "services",
    "launches": "launches",
    "doctor": "doctor",
}
EPILOG: Final = """\b
Completion of commands and options in the shell:
  eval "$(_GATEWAY_COMPLETE=bash_source gateway)"    in ~/.bashrc
  eval "$(_GATEWAY_COMPLETE=zsh_source gateway)"     in ~/.zshrc
  _GATEWAY_COMPLETE=fish_source gateway | source     in config.fish
"""


class _Commands(MutableMapping[str, click.Command]):
    """The commands by name, imported one by one."""

    def __init__(self) -> None:
        self._modules = dict(_MODULES)

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"gateway.cli.{self._modules[name]}"), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __setitem__(self, name: str, command: click.Command) -> None:
        raise TypeError("commands are listed above")

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands are listed above")


class Group(click.Group):
    """Shows our own errors as sentences; exit status 1, or 78 for a fault of configuration."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a new site meets them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; see the class."""
        from gateway.errors import ConfigurationError, GatewayError

        try:
            return super().invoke(ctx)
        except GatewayError as error:
            from gateway.cli.options import find_language

            click.echo(f"gateway: {error.user_message.render(find_language())}", err=True)
            if error.detail:
                click.echo(error.detail, err=True)
            sys.exit(78 if isinstance(error, ConfigurationError) else 1)


@click.group(
    cls=Group,
    commands=_Commands(),
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """Landfall: JupyterLab as a batch job on an HPC cluster, reached over SSH."""

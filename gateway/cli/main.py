"""The ``gateway`` command group. A command's module is imported when it is called for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Final

import click
from click.shell_completion import CompletionItem

from gateway import __version__

# Name: module, and the help's first words, so that a list of commands imports none of them.
_COMMANDS: Final = {
    "up": ("up", "Run everything on this machine"),
    "connector": ("services", "Run the connector: launches, the job monitor, the tunnels."),
    "signer": ("services", "Run the signer: the SSH user-certificate authority"),
    "launches": ("launches", "List, show and cancel launches."),
    "doctor": ("doctor", "Try every station of the way to CLUSTER"),
}
EPILOG: Final = """\b
Completion of commands and options in the shell:
  eval "$(_GATEWAY_COMPLETE=bash_source gateway)"    in ~/.bashrc
  eval "$(_GATEWAY_COMPLETE=zsh_source gateway)"     in ~/.zshrc
  _GATEWAY_COMPLETE=fish_source gateway | source     in config.fish
"""


class _Commands(MutableMapping[str, click.Command]):
    """The commands by name, imported one by one."""

    def __getitem__(self, name: str) -> click.Command:
        module, _ = _COMMANDS[name]
        command: click.Command = getattr(import_module(f"gateway.cli.{module}"), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)

    def __setitem__(self, name: str, command: click.Command) -> None:
        raise TypeError("commands are listed above")

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands are listed above")


class Group(click.Group):
    """Shows our own errors as sentences; exit status 1, or 78 for a fault of configuration."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a new site meets them."""
        return list(_COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them with the first words of their help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name, or an option of the group."""
        names = [name for name in _COMMANDS if name.startswith(incomplete)]
        found = [CompletionItem(name, help=_COMMANDS[name][1]) for name in names]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

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

"""``gateway doctor``: tries the way to a cluster, station by station, and says what to do."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from gateway.cli.options import config_option, find_language
from gateway.doctor.examination import SETTINGS, examine
from gateway.doctor.findings import Finding, Outcome, Result, fail, ok
from gateway.doctor.subject import Question, Subject, load_subject
from gateway.errors import ConfigurationError
from gateway.text import Language, text

CONFIGURATION_STATUS: Final = 78  # EX_CONFIG, sysexits.h
_LABELS: Final = {
    Outcome.OK: text("ok"),
    Outcome.WARN: text("warn"),
    Outcome.FAIL: text("FAIL"),
    Outcome.SKIPPED: text("skipped"),
}
_COLOURS: Final = {
    Outcome.OK: "green",
    Outcome.WARN: "yellow",
    Outcome.FAIL: "red",
    Outcome.SKIPPED: "bright_black",
}
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INDENT: Final = " " * 18
_WIDTH: Final = 100


@click.command()
@config_option
@click.argument("cluster")
@click.option(
    "--user",
    default=None,
    metavar="NAME",
    help="Cluster user for whom to run a short test job; without it no job is run.",
)
@click.option(
    "--environment",
    default=None,
    metavar="NAME",
    help="Software environment of the test job; by default the profile's first.",
)
@click.option(
    "--wait",
    type=click.FloatRange(1, 86400),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the test job may wait in the queue.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(
    config: Path,
    cluster: str,
    *,
    user: str | None,
    environment: str | None,
    wait: float,
    as_json: bool,
) -> None:
    """Try every station of the way to CLUSTER and say what is wrong and what to do.

    Run it on the hub host under the account of the connector. The exit status is 0 when nothing
    failed, 1 when something did, 78 when settings or profiles cannot be used.
    """
    question = Question(config, cluster, user, environment, wait)
    language = find_language()
    report = _print_json if as_json else lambda result: _print_plain(result, language)
    raise SystemExit(asyncio.run(visit(question, report)))


async def visit(question: Question, report: Callable[[Result], None]) -> int:
    """Examine, and return the exit status of the command."""

    def tell(finding: Finding) -> None:
        report(Result("settings", SETTINGS, finding))

    try:
        settings, profile = load_subject(question)
    except ConfigurationError as error:
        tell(fail(error.user_message, detail=error.detail))
        return CONFIGURATION_STATUS
    names = ", ".join(host.host for host in profile.login.hosts)
    tell(ok(text("login nodes of {cluster}: {names}", cluster=profile.name, names=names)))
    async with Subject(settings, profile, question) as subject:
        examining = asyncio.ensure_future(examine(subject, report))
        with _catch_signals(examining) as caught:
            try:
                passed = await examining
            except asyncio.CancelledError:
                if not caught:
                    raise
                return 128 + caught[0]
    return 0 if passed else 1


@contextmanager
def _catch_signals(examining: asyncio.Future[bool]) -> Iterator[list[int]]:
    """The first signal ends the examination, which then removes its test job; later ones change
    nothing, as that is bounded by itself."""
    caught: list[int] = []

    def catch(number: int) -> None:
        if not caught:
            click.echo("stopping; the test job is being removed ...", err=True)
            examining.cancel()
        caught.append(number)

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, catch, number)
    try:
        yield caught
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _print_plain(result: Result, language: Language) -> None:
    finding = result.finding
    label = _LABELS[finding.outcome].render(language)
    head = f"{label:<8} {result.seconds:6.2f} s "
    words = f"{result.title.render(language)}: {finding.words.render(language)}"
    click.echo(click.style(head, fg=_COLOURS[finding.outcome]) + " " + words)
    if finding.detail:
        for line in finding.detail.splitlines():
            _echo_block(line, "| ", keep=True)
    for remedy in finding.remedies:
        _echo_block(remedy.render(language), "-> ")


def _echo_block(words: str, mark: str, *, keep: bool = False) -> None:
    # Lines to be copied must not be broken in words or at hyphens.
    lines = [words] if keep else textwrap.wrap(
        words, _WIDTH - len(_INDENT), break_long_words=False, break_on_hyphens=False
    )  # fmt: skip
    for number, line in enumerate(lines):
        click.echo(_INDENT + (mark if number == 0 else " " * len(mark)) + line)


def _print_json(result: Result) -> None:
    finding = result.finding
    value = {
        "station": result.key,
        "title": result.title.as_dict(),
        "outcome": finding.outcome.value,
        "seconds": round(result.seconds, 3),
        "words": finding.words.as_dict(),
        "remedies": [remedy.as_dict() for remedy in finding.remedies],
        "detail": finding.detail,
    }
    click.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()

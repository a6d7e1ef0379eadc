"""The stations in their order, and the walk along them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

from gateway.doctor.findings import Finding, Outcome, Result, Station, fail, skipped
from gateway.doctor.forwarding import check_forwarding
from gateway.doctor.login_nodes import check_host, check_sign_in
from gateway.doctor.scheduling import (
    check_accounts,
    check_commands,
    check_limits,
    check_partitions,
)
from gateway.doctor.sessions import check_clock, check_shell
from gateway.doctor.signing import check_signed
from gateway.doctor.subject import Subject
from gateway.doctor.templates import check_templates
from gateway.doctor.trial import Trial
from gateway.errors import GatewayError
from gateway.text import Text, text
from gateway.transport.base import Actor

Report = Callable[[Result], None]
Check = Callable[[], Awaitable[Finding]]
SETTINGS = text("settings and profile")


async def examine(subject: Subject, report: Report) -> bool:
    """Try every station, tell each result to ``report`` at once, and return whether none failed.

    When it is cancelled, the test job is removed all the same.
    """
    trial = None if subject.user is None else Trial(subject, subject.user)
    results: dict[str, Result] = {}

    def note(result: Result) -> None:
        results[result.key] = result
        report(result)

    try:
        for station in [*_build_login_stations(subject), *_build_job_stations(subject, trial)]:
            note(await _visit(station, results))
    finally:
        if trial is not None:
            removal = Station("removal", text("test job removed"), trial.remove)
            note(await _visit(removal, results))
    return all(result.finding.outcome is not Outcome.FAIL for result in results.values())


async def _visit(station: Station, results: dict[str, Result]) -> Result:
    for need in station.needs:
        # A station that was left out altogether (such as another way in) is no obstacle.
        if need in results and not results[need].passed:
            because = skipped(text("because of: {title}", title=results[need].title))
            return Result(station.key, station.title, because)
    begun = time.monotonic()
    try:
        finding = await station.check()
    except GatewayError as error:
        finding = fail(error.user_message, detail=error.detail)
    return Result(station.key, station.title, finding, time.monotonic() - begun)


def _build_login_stations(subject: Subject) -> list[Station]:
    actors = subject.actors
    stations = [
        Station("templates", text("job template"), partial(check_templates, subject)),
        *(
            Station(
                f"signer:{_name(actor)}",
                text("signer, {role} {account}", role=_role(actor), account=actor.name),
                partial(check_signed, subject, actor),
            )
            for actor in actors
        ),
        *(
            Station(
                f"host:{host.host}:{host.port}",
                text("login node {host} port {port}", host=host.host, port=host.port),
                partial(check_host, subject, host),
            )
            for host in subject.profile.login.hosts
        ),
        *(
            Station(
                f"sign_in:{_name(actor)}",
                text("sign-in, {role} {account}", role=_role(actor), account=actor.name),
                partial(check_sign_in, subject, actor),
                (f"signer:{_name(actor)}",),
            )
            for actor in actors
        ),
    ]
    observer = f"sign_in:{_name(subject.observer)}"
    stations.append(Station("clock", text("clock"), partial(check_clock, subject), (observer,)))
    stations += [
        Station(
            f"shell:{_name(actor)}",
            text("shell of {account}", account=actor.name),
            partial(check_shell, subject, actor),
            (f"sign_in:{_name(actor)}",),
        )
        for actor in (subject.observer, subject.user)
        if actor is not None
    ]
    return stations


def _build_job_stations(subject: Subject, trial: Trial | None) -> list[Station]:
    shell = f"shell:{_name(subject.observer)}"
    stations = [
        Station("scheduler", text("scheduler"), partial(check_commands, subject), (shell,)),
        Station(
            "partitions", text("partitions"), partial(check_partitions, subject), ("scheduler",)
        ),
        Station("limits", text("limits"), partial(check_limits, subject), ("partitions",)),
    ]
    user, tunnel = subject.user, subject.tunnel
    if tunnel is None:
        stations.append(Station("forwarding", text("forwarding"), _needs_user))
    else:
        stations.append(
            Station(
                "forwarding",
                text("forwarding"),
                partial(check_forwarding, subject, tunnel),
                ("scheduler", f"sign_in:{_name(tunnel)}"),
            )
        )
    titles = {
        "accounts": text("accounts of the user"),
        "directory": text("launch directory"),
        "job": text("test job submitted"),
        "observer": text("observer sees it"),
        "running": text("test job runs"),
        "node": text("sign-in at its node"),
        "tunnel": text("tunnel and agent"),
    }
    if trial is None or user is None:
        return stations + [Station(key, title, _needs_user) for key, title in titles.items()]
    signed_in = f"shell:{_name(user)}"
    checks: dict[str, tuple[Check, tuple[str, ...]]] = {
        "accounts": (partial(check_accounts, subject, user.name), ("scheduler",)),
        "directory": (trial.check_directory, (signed_in,)),
        "job": (trial.submit, ("directory", "partitions")),
        "observer": (trial.check_observer, ("job",)),
        "running": (trial.wait_running, ("job",)),
        "node": (trial.check_node, ("running", "forwarding")),
        "tunnel": (trial.check_tunnel, ("node",)),
    }
    return stations + [Station(key, titles[key], *check) for key, check in checks.items()]


async def _needs_user() -> Finding:
    return skipped(text("give --user NAME, a cluster user for whom it is tried"))


def _name(actor: Actor) -> str:
    return f"{actor.role.value}:{actor.name}"


def _role(actor: Actor) -> Text:
    return {"user": text("user"), "observer": text("observer"), "tunnel": text("tunnel account")}[
        actor.role.value
    ]

"""What the launch page says of a launch: from the connector's view and the hub's state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.connector.models import LaunchView
from gateway.connector.models import Words as SentWords
from gateway.launch.states import EndReason, LaunchState
from gateway.text import Language, Text, text

STATES: Final[Mapping[LaunchState, Text]] = {
    LaunchState.REQUESTED: text("Requested"),
    LaunchState.SUBMITTING: text("Submitting the job"),
    LaunchState.QUEUED: text("Waiting in the queue"),
    LaunchState.STARTING: text("Starting"),
    LaunchState.CONNECTING: text("Connecting"),
    LaunchState.READY: text("Ready"),
    LaunchState.ENDING: text("Ending"),
    LaunchState.ENDED: text("Ended"),
}
# The stations a reader follows; the others are shown as the one they belong to.
STEPS: Final = (
    (LaunchState.SUBMITTING, text("Submit")),
    (LaunchState.QUEUED, text("Queue")),
    (LaunchState.STARTING, text("Start-up")),
    (LaunchState.CONNECTING, text("Connect")),
    (LaunchState.READY, text("Ready")),
)
_ORDER: Final = tuple(state for state, _ in STEPS)
CLEAN_ENDS: Final = frozenset({EndReason.STOPPED, EndReason.COMPLETED})
ADVICE: Final[Mapping[EndReason, Text]] = {
    EndReason.STOPPED: text("You can start it again at any time."),
    EndReason.COMPLETED: text("You can start it again at any time."),
    EndReason.REJECTED: text("Change the request as the words above say, and try again."),
    EndReason.FAILED: text(
        "Read the end of the job's log below; another environment or more memory often helps."
    ),
    EndReason.NEVER_REACHED: text(
        "The job ran, but its server never answered. Try again; if it happens again, show this "
        "page to your support."
    ),
    EndReason.WALLTIME: text("Ask for a longer walltime if you need more time."),
    EndReason.OUT_OF_MEMORY: text("Ask for more memory, or work on less data at once."),
    EndReason.NODE_FAILURE: text("The fault was not yours: start it again."),
    EndReason.PREEMPTED: text(
        "Another job with a higher priority took its place: start it again, or choose a partition "
        "whose jobs are not preempted."
    ),
    EndReason.CANCELLED: text(
        "It was cancelled on the cluster. If that was not you, ask your support why."
    ),
    EndReason.GONE: text("The scheduler no longer knows the job: start it again."),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One station: ``done``, ``current`` or ``todo``."""

    label: str
    standing: str


@dataclass(frozen=True, slots=True)
class StatusView:
    """What the template shows, in the reader's language."""

    state: str
    tone: str
    headline: str
    words: str = ""
    advice: str = ""
    steps: tuple[Step, ...] = ()
    facts: tuple[tuple[str, str, str], ...] = ()
    log_tail: str = ""
    live: bool = False
    can_cancel: bool = False
    can_reconnect: bool = False
    url: str = ""


def build_status(
    view: LaunchView | None,
    language: Language,
    *,
    url: str,
    hub_active: bool,
    hub_ready: bool,
    problem: str,
    now: datetime,
    away: bool = False,
) -> StatusView:
    """Return what to show.

    ``url`` is the server's address, offered when it can be used; ``hub_active`` and ``hub_ready``
    are the hub's own idea of the server; ``problem`` is a refusal of the last start, or, with
    ``away``, why the connector could not be asked.
    """
    if away:
        headline = text("The state is not known at the moment")
        return StatusView("unknown", "busy", headline.render(language), words=problem, live=True)
    if view is None:
        return _build_without_launch(language, hub_active=hub_active, problem=problem)
    live = view.state is not LaunchState.ENDED
    ready = view.state is LaunchState.READY
    facts = tuple(_build_facts(view, language, now))
    if not live:
        return _build_ended(view, language, problem=problem, facts=facts)
    usable = ready and hub_ready
    return StatusView(
        state=view.state.value,
        tone="good" if ready else "busy",
        headline=STATES[view.state].render(language),
        words=problem or _render(view.words, language),
        steps=_build_steps(view.state, language),
        facts=facts,
        live=True,
        can_cancel=view.state is not LaunchState.ENDING,
        can_reconnect=not hub_active and view.state is not LaunchState.ENDING,
        url=url if usable else "",
    )


def format_duration(value: timedelta, language: Language) -> str:
    """Return a duration as people say it, to the minute from one minute on."""
    seconds = max(int(value.total_seconds()), 0)
    days, hours, minutes = seconds // 86400, seconds % 86400 // 3600, seconds % 3600 // 60
    if days:
        return text("{days} d {hours} h", days=days, hours=hours).render(language)
    if hours:
        return text("{hours} h {minutes} min", hours=hours, minutes=minutes).render(language)
    if minutes:
        return text("{minutes} min", minutes=minutes).render(language)
    return text("{seconds} s", seconds=seconds).render(language)


def _build_without_launch(language: Language, *, hub_active: bool, problem: str) -> StatusView:
    if hub_active:
        headline = text("The request is on its way")
        return StatusView("requested", "busy", headline.render(language), words=problem, live=True)
    if problem:
        headline = text("This server could not be started")
        return StatusView("ended", "bad", headline.render(language), words=problem)
    headline = text("This server has not been started yet")
    return StatusView("ended", "calm", headline.render(language))


def _build_ended(
    view: LaunchView,
    language: Language,
    *,
    problem: str,
    facts: tuple[tuple[str, str, str], ...],
) -> StatusView:
    end = view.end
    clean = end is not None and end.reason in CLEAN_ENDS
    headline = text("This server has ended") if clean else text("This server failed")
    return StatusView(
        state=view.state.value,
        tone="calm" if clean else "bad",
        headline=headline.render(language),
        words=_render(end.words if end else view.words, language) or problem,
        advice=ADVICE[end.reason].render(language) if end else "",
        facts=facts,
        log_tail=end.log_tail if end else "",
    )


def _build_steps(state: LaunchState, language: Language) -> tuple[Step, ...]:
    if state is LaunchState.ENDING:
        return ()
    at = 0 if state is LaunchState.REQUESTED else _ORDER.index(state)
    last = len(STEPS) - 1
    return tuple(
        Step(
            label.render(language),
            "done" if index < at or at == last else "current" if index == at else "todo",
        )
        for index, (_, label) in enumerate(STEPS)
    )


def _build_facts(view: LaunchView, language: Language, now: datetime) -> list[tuple[str, str, str]]:
    # label, words, and for a moment its ISO form, which the script turns into local time
    facts: list[tuple[str, str, str]] = []

    def add(label: Text, value: str, moment: datetime | None = None) -> None:
        if value:
            iso = moment.astimezone(UTC).isoformat(timespec="seconds") if moment else ""
            facts.append((label.render(language), value, iso))

    def add_moment(label: Text, moment: datetime | None) -> None:
        if moment is not None:
            add(label, f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC", moment)

    live = view.state is not LaunchState.ENDED
    if view.native_reason and view.state is LaunchState.QUEUED:
        add(text("Scheduler's reason"), view.native_reason)
    if view.state in (LaunchState.QUEUED, LaunchState.SUBMITTING, LaunchState.REQUESTED):
        add_moment(text("Estimated start"), view.estimated_start)
    if live:
        add(text("In this state for"), format_duration(now - view.changed_at, language))
    until = now if live else view.changed_at
    add(text("Since the request"), format_duration(until - view.created_at, language))
    if live:
        add_moment(text("Ends at the latest"), view.ends_at)
    add(text("Cluster"), _render(view.cluster_title, language))
    add(text("Job"), view.job_id or "")
    add(text("Compute node"), view.node or "")
    for name, label in _CHOICES:
        value = view.options.get(name)
        if value not in (None, "", 0):
            add(label, str(value))
    return facts


_CHOICES: Final = (
    ("partition", text("Partition")),
    ("account", text("Account")),
    ("environment", text("Environment")),
    ("walltime", text("Walltime")),
    ("cores", text("Cores")),
    ("memory", text("Memory")),
    ("gpus", text("GPUs")),
    ("reservation", text("Reservation")),
)


def _render(words: SentWords, language: Language) -> str:
    return words.fr if language == "fr" else words.en

"""From what the connector knows to what travels; pure."""

from __future__ import annotations

from datetime import datetime

from gateway.connector.models import (
    AccountChoice,
    ClusterChoices,
    EdgeView,
    EndView,
    EnvironmentChoice,
    GpuChoice,
    LaunchView,
    PartitionChoice,
    ReservationChoice,
    TransitionView,
    Words,
)
from gateway.launch.progress import Snapshot
from gateway.options.choices import Choices
from gateway.profiles.models import ClusterProfile, Title
from gateway.text import Fixed
from gateway.text import Words as AnyWords
from gateway.values.resources import format_walltime

_HISTORY_SHOWN = 100


def build_words(words: AnyWords) -> Words:
    """Return words in both languages."""
    return Words(**words.as_dict())


def build_title(title: Title | None, name: str) -> Words:
    """Return a title, the bare name when there is none (any more)."""
    return Words(en=title.en, fr=title.fr) if title else Words(en=name, fr=name)


def build_launch_view(snapshot: Snapshot, profile: ClusterProfile | None) -> LaunchView:
    """Return the view of one launch; ``profile`` is ``None`` when its cluster has none any more."""
    record, status = snapshot.record, snapshot.status
    history = record.history[-_HISTORY_SHOWN:]
    last = history[-1].words if history else Fixed("", "")
    end = None
    if not record.live and record.end_reason is not None:
        words = record.end_words or last
        end = EndView(reason=record.end_reason, words=build_words(words), log_tail=record.log_tail)
    return LaunchView(
        id=record.id,
        cluster=record.cluster,
        cluster_title=build_title(profile.title if profile else None, record.cluster),
        user=record.identity.name,
        server_name=record.server_name,
        cluster_user=record.cluster_user.name,
        state=record.state,
        words=build_words((snapshot.words if record.live else None) or last),
        native_reason=status.native_reason if status and record.live else "",
        job_id=record.job_id,
        node=record.node,
        edge=EdgeView(ip=record.edge.ip, port=record.edge.port),
        options=record.options,
        created_at=record.created_at,
        changed_at=record.changed_at,
        estimated_start=status.estimated_start if status and record.live else None,
        ends_at=status.ends_at if status and record.live else None,
        tunnel_up=snapshot.tunnel_up,
        tunnel_down_since=snapshot.tunnel_down_since,
        end=end,
        history=[
            TransitionView(at=line.at, state=line.state, words=build_words(line.words), by=line.by)
            for line in history
        ],
    )


def build_no_choices(
    profile: ClusterProfile, problem: AnyWords, cluster_user: str | None = None
) -> ClusterChoices:
    """Return the entry of a cluster on which nothing can be started, and why."""
    return ClusterChoices(
        name=profile.name,
        title=build_title(profile.title, profile.name),
        cluster_user=cluster_user,
        problem=build_words(problem),
    )


def build_choices_view(
    profile: ClusterProfile, cluster_user: str, choices: Choices, fetched_at: datetime | None
) -> ClusterChoices:
    """Return what ``cluster_user`` may choose; the default partition comes first."""
    offers = sorted(
        choices.partitions.values(), key=lambda offer: offer.name != choices.default_partition
    )
    accounts: dict[str, AccountChoice] = {}
    for item in choices.accounts:
        known = accounts.get(item.account)
        accounts[item.account] = AccountChoice(
            name=item.account,
            default=item.default or (known is not None and known.default),
            qos=sorted({*(known.qos if known else ()), *item.qos}),
        )
    return ClusterChoices(
        name=profile.name,
        title=build_title(profile.title, profile.name),
        cluster_user=cluster_user,
        partitions=[
            PartitionChoice(
                name=offer.name,
                title=build_words(offer.title),
                up=offer.up,
                max_walltime=format_walltime(offer.max_walltime),
                default_walltime=format_walltime(offer.default_walltime),
                max_cores=offer.max_cores,
                max_memory=str(offer.max_memory),
                free_cores=offer.free_cores,
                gpus=[GpuChoice(kind=g.kind, max=g.max, free=g.free) for g in offer.gpus],
            )
            for offer in offers
        ],
        accounts=list(accounts.values()),
        environments=[
            EnvironmentChoice(
                name=name,
                title=build_title(environment.title, name),
                interface=environment.interface,
            )
            for name, environment in choices.environments.items()
        ],
        reservations=[
            ReservationChoice(name=item.name, ends_at=item.ends_at, active=item.active)
            for item in choices.reservations.values()
        ],
        fetched_at=fetched_at,
    )

"""From settings and profiles to a running service: the only place that chooses implementations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gateway.connector.measured import MeasuredScheduler
from gateway.connector.service import ConnectorService, Site
from gateway.errors import ConfigurationError
from gateway.identity.table import TableMapper
from gateway.launch.cluster import Cluster, Edge, HubApi, Patience
from gateway.launch.database import Database
from gateway.launch.inventory import Inventory
from gateway.launch.registry import LaunchRegistry
from gateway.launch.secrets import SecretBox
from gateway.launch.states import EndReason, LaunchRecord, LaunchState
from gateway.launch.store import LaunchStore
from gateway.launch.waiting import Backoff, cancel_all
from gateway.observability.logs import log_event
from gateway.observability.metrics import ConnectorMetrics
from gateway.profiles.loading import load_profiles
from gateway.profiles.models import ClusterProfile
from gateway.remote.bundle import build_agent
from gateway.rendering.job_log import parse_job_log
from gateway.rendering.renderer import Renderer, shipped_template_directory
from gateway.schedulers.base import Scheduler
from gateway.schedulers.gridengine.adapter import GridEngineScheduler
from gateway.schedulers.monitor import JobMonitor
from gateway.schedulers.pbs.adapter import PbsScheduler
from gateway.schedulers.slurm.adapter import SlurmScheduler
from gateway.settings import Settings
from gateway.signer.client import SignerClient
from gateway.text import text
from gateway.transport.base import Actor, Role, Transport
from gateway.transport.credentials import build_credentials
from gateway.transport.pool import SshPool
from gateway.transport.ssh import SshTransport
from gateway.tunnel.compute_ssh import ComputeSshOpener
from gateway.tunnel.edge import Edge as LoopbackEdge
from gateway.tunnel.hub_api import HubApiFilter

logger = logging.getLogger("gateway.connector")

ADMITTED_AT_ONCE: Final = 8
"""Launches of one cluster that prepare or submit at the same time."""


@asynccontextmanager
async def open_service(
    settings: Settings, *, patience: Patience | None = None
) -> AsyncIterator[ConnectorService]:
    """Open everything, in the order in which it is needed, and close it in reverse.

    :raises ConfigurationError: a profile, the table of logins, the key or the database is at
        fault.
    """
    patience = patience or Patience()
    profiles = load_profiles(settings.profiles_directory)
    mapper = TableMapper(_find_login_table(settings))
    metrics = ConnectorMetrics(
        profiles,
        states=[state.value for state in LaunchState],
        end_reasons=[reason.value for reason in EndReason],
        roles=[role.value for role in Role],
    )
    async with AsyncExitStack() as stack:
        box = SecretBox.open(settings.state_directory / "connector.key")
        database = await Database.open(settings.database_url)
        stack.push_async_callback(database.close)
        store = LaunchStore(database, box, edge_network=settings.connector.edge_network)
        signer = SignerClient(settings.signer_socket)
        hub_api = HubApiFilter(
            f"http://127.0.0.1:{settings.hub.api_port}{_hub_prefix(settings)}hub/api",
            settings.runtime_directory / "hub-api",
        )
        await hub_api.open()
        stack.push_async_callback(hub_api.close)
        renderer = Renderer([*settings.template_directories, shipped_template_directory()])
        sites: dict[str, Site] = {}
        for name, profile in profiles.items():
            sites[name] = await _open_site(
                profile, signer, renderer, hub_api, metrics, patience, stack
            )
        clusters = {name: site.cluster for name, site in sites.items()}
        registry = LaunchRegistry(clusters, store, metrics)
        stack.push_async_callback(registry.close)
        resumed = await registry.resume()
        log_event(
            logger, logging.INFO, "connector ready", clusters=",".join(profiles), resumed=resumed
        )
        yield ConnectorService(sites, registry, mapper, metrics)


async def _open_site(
    profile: ClusterProfile,
    signer: SignerClient,
    renderer: Renderer,
    hub_api: HubApi,
    metrics: ConnectorMetrics,
    patience: Patience,
    stack: AsyncExitStack,
) -> Site:
    observer = Actor(Role.OBSERVER, profile.roles.observer.name)
    pool = SshPool(profile, build_credentials(profile, signer))
    stack.push_async_callback(pool.close)
    for role in Role:
        metrics.ssh_connections.labels(profile.name, role).set_function(
            partial(_count_connections, pool, role)
        )
    transport = SshTransport(pool)
    scheduler = MeasuredScheduler(
        build_scheduler(
            transport,
            profile,
            observer,
            on_unheard_of=lambda _: metrics.unknown_native_states.labels(profile.name).inc(),
        ),
        profile.name,
        metrics,
    )
    # PBS has no second source; the profile's default says nothing of it.
    accounting = profile.scheduler.accounting and profile.scheduler.kind != "pbs"
    monitor = JobMonitor(scheduler, accounting=accounting)
    watching = asyncio.create_task(_keep_watching(monitor, profile.name))
    stack.push_async_callback(cancel_all, watching)
    opener = ComputeSshOpener(pool, profile)
    stack.push_async_callback(opener.close)
    inventory = Inventory(profile, scheduler)
    stack.push_async_callback(inventory.close)
    cluster = Cluster(
        profile=profile,
        transport=transport,
        scheduler=scheduler,
        monitor=monitor,
        renderer=renderer,
        opener=opener,
        observer=observer,
        agent_source=build_agent(),
        hub_api=hub_api,
        build_edge=build_edge,
        parse_job_log=parse_job_log,
        admission=asyncio.Semaphore(ADMITTED_AT_ONCE),
        patience=patience,
    )
    return Site(cluster, inventory, monitor)


def build_scheduler(
    transport: Transport,
    profile: ClusterProfile,
    observer: Actor,
    *,
    on_unheard_of: Callable[[str], None] | None = None,
) -> Scheduler:
    """Return the adapter of the profile's scheduler.

    ``on_unheard_of`` is called with each native job state that the adapter does not know.
    """
    match profile.scheduler.kind:
        case "slurm":
            return SlurmScheduler(transport, profile, observer, on_unheard_of=on_unheard_of)
        case "pbs":
            return PbsScheduler(transport, profile, observer, on_unheard_of=on_unheard_of)
        case "gridengine":
            return GridEngineScheduler(transport, profile, observer, on_unheard_of=on_unheard_of)


def _count_connections(pool: SshPool, role: Role) -> float:
    return pool.count_connections()[role]


async def _keep_watching(monitor: JobMonitor, cluster: str) -> None:
    backoff = Backoff(1.0, 60.0)
    while True:
        try:
            await monitor.run()
        except Exception:  # a fault of ours must not leave a cluster's jobs unwatched
            log_event(
                logger, logging.ERROR, "fault in the job monitor", error=True, cluster=cluster
            )
        await backoff.wait()


def build_edge(record: LaunchRecord) -> Edge:
    """Return the edge of a launch, closed."""
    return LoopbackEdge(
        record.edge, base_url=record.base_url, launch_page=build_launch_page(record)
    )


def build_launch_page(record: LaunchRecord) -> str:
    """Return the path of the launch page, on the hub that serves the launch's ``base_url``."""
    prefix = record.base_url.rpartition("/user/")[0]
    names = [name for name in (record.identity.name, record.server_name) if name]
    return f"{prefix}/hub/launch/" + "/".join(quote(name, safe="") for name in names)


def _hub_prefix(settings: Settings) -> str:
    # hub.bind_url may carry a path under which the whole hub lives.
    path = settings.hub.bind_url.partition("://")[2].partition("/")[2].strip("/")
    return f"/{path}/" if path else "/"


def _find_login_table(settings: Settings) -> Path:
    if settings.identity.table is None:
        raise ConfigurationError(
            text(
                "The settings name no table of logins: set identity.table, so that people can be"
                " mapped to accounts on clusters."
            ),
            reason="identity_table",
        )
    return settings.identity.table

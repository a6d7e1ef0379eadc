"""What the connector does for the hub and the CLI; the routes are in ``app.py``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from gateway import __version__
from gateway.connector.models import (
    ClusterChoices,
    ClusterHealth,
    EnsureAnswer,
    EnsureRequest,
    Health,
    IdentityModel,
    LaunchView,
)
from gateway.connector.problems import build_not_found
from gateway.connector.views import (
    build_choices_view,
    build_launch_view,
    build_no_choices,
    build_words,
)
from gateway.errors import GatewayError, RequestRejected
from gateway.identity.base import IdentityMapper
from gateway.launch.cluster import Cluster
from gateway.launch.inventory import Inventory
from gateway.launch.progress import Snapshot
from gateway.launch.registry import LaunchRegistry
from gateway.launch.rows import NewLaunch
from gateway.launch.secrets import StartSecrets, new_start_id
from gateway.launch.states import new_launch_id
from gateway.observability.metrics import ConnectorMetrics
from gateway.options.choices import check_options
from gateway.options.models import SpawnOptions
from gateway.text import Words, text
from gateway.values.identity import HUB_NAME, ClusterUser, Identity

HEARTBEAT: Final = 15.0
_BASE_URL: Final = re.compile(r"/[A-Za-z0-9%._~@:/!$&'()*+,;=-]*", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class HealthOfScheduler(Protocol):
    """How a scheduler answers, as the monitor tells it."""

    @property
    def state(self) -> str: ...
    @property
    def words(self) -> Words: ...


class HealthSource(Protocol):
    """Where that is asked."""

    @property
    def health(self) -> HealthOfScheduler: ...


@dataclass(frozen=True, slots=True)
class Site:
    """One cluster as the service sees it."""

    cluster: Cluster
    inventory: Inventory
    monitor: HealthSource


class ConnectorService:
    """Validates, asks the registry, and builds the answers. Raises only ``GatewayError``."""

    def __init__(
        self,
        sites: Mapping[str, Site],
        registry: LaunchRegistry,
        mapper: IdentityMapper,
        metrics: ConnectorMetrics,
    ) -> None:
        self._sites = sites
        self._registry = registry
        self._mapper = mapper
        self._metrics = metrics

    async def ensure(self, request: EnsureRequest) -> EnsureAnswer:
        """Adopt the server's live launch, or validate the request and make one."""
        _check_request(request)
        token = request.api_token.get_secret_value() if request.api_token else None
        start = StartSecrets(
            new_start_id(),
            request.environment,
            tuple(request.arguments),
            token,
            request.token_id,
        )
        taken = await self._registry.adopt(request.identity.name, request.server_name, start)
        if taken is None:
            identity = _build_identity(request.identity)
            options, user = await self._check(identity, request)
            new = NewLaunch(
                id=new_launch_id(),
                cluster=options.cluster,
                identity=identity,
                server_name=request.server_name,
                cluster_user=user,
                options=options.model_dump(mode="json"),
                base_url=request.base_url,
            )
            taken = await self._registry.ensure(new, start)
        snapshot, ensured = taken
        given = ensured.given
        return EnsureAnswer.model_validate(
            {
                "launch": self._view(snapshot),
                "adopted": ensured.adopted,
                "api_token": given.api_token if given else None,
                "token_id": given.token_id if given else None,
            }
        )

    async def check(self, cluster: str, request: EnsureRequest) -> None:
        """Validate only.

        :raises RequestRejected: with ``fields``.
        """
        if cluster not in self._sites:
            raise build_not_found(f"cluster {cluster}")
        _check_request(request)
        options = {**request.options, "cluster": cluster}
        await self._check(
            _build_identity(request.identity), request.model_copy(update={"options": options})
        )

    async def choices(self, model: IdentityModel) -> list[ClusterChoices]:
        """What this person may choose, cluster by cluster; all are asked at once."""
        identity = _build_identity(model)
        return list(
            await asyncio.gather(
                *(self._choices_of(identity, site) for site in self._sites.values())
            )
        )

    async def find(
        self, *, user: str | None, server: str | None, live: bool | None, limit: int
    ) -> list[LaunchView]:
        """Launches, newest first."""
        found = await self._registry.find(hub_user=user, server_name=server, live=live, limit=limit)
        return [self._view(snapshot) for snapshot in found]

    async def fetch(self, launch_id: str) -> LaunchView:
        """One launch."""
        return self._view(await self._snapshot(launch_id))

    async def events(self, launch_id: str) -> AsyncGenerator[LaunchView, None]:
        """The launch's views as they change, one at least every 15 s."""
        async with aclosing(self._registry.watch(launch_id, repeat_after=HEARTBEAT)) as snapshots:
            async for snapshot in snapshots:
                yield self._view(snapshot)

    async def stop(self, launch_id: str, by: str) -> LaunchView:
        """Ask for the end."""
        snapshot = await self._registry.stop(launch_id, by)
        if snapshot is None:
            raise build_not_found("such launch")
        return self._view(snapshot)

    async def fetch_log(self, launch_id: str) -> str:
        """The end of the job's log."""
        return await self._registry.fetch_log((await self._snapshot(launch_id)).record)

    def health(self) -> Health:
        """How the connector and its clusters are."""
        counts = self._registry.count_live()
        return Health(
            version=__version__,
            clusters=[
                ClusterHealth(
                    name=name,
                    state=str(site.monitor.health.state),
                    words=build_words(site.monitor.health.words),
                    launches=sum(n for (cluster, _), n in counts.items() if cluster == name),
                )
                for name, site in self._sites.items()
            ],
        )

    def render_metrics(self) -> bytes:
        """The Prometheus text."""
        self._registry.update_metrics()
        return self._metrics.render()

    async def _snapshot(self, launch_id: str) -> Snapshot:
        snapshot = await self._registry.fetch(launch_id)
        if snapshot is None:
            raise build_not_found("such launch")
        return snapshot

    def _view(self, snapshot: Snapshot) -> LaunchView:
        site = self._sites.get(snapshot.record.cluster)
        return build_launch_view(snapshot, site.cluster.profile if site else None)

    async def _choices_of(self, identity: Identity, site: Site) -> ClusterChoices:
        profile = site.cluster.profile
        try:
            user = await self._mapper.find_cluster_user(identity, profile.name)
        except GatewayError as error:
            return build_no_choices(profile, error.user_message)
        if user is None:
            return build_no_choices(profile, _not_mapped(profile.name))
        offered = await site.inventory.fetch(user.name)
        return build_choices_view(profile, user.name, offered.choices, offered.fetched_at)

    async def _check(
        self, identity: Identity, request: EnsureRequest
    ) -> tuple[SpawnOptions, ClusterUser]:
        wanted = request.options.get("cluster")
        site = self._sites.get(wanted) if isinstance(wanted, str) else None
        if site is None:
            raise _refuse_cluster(wanted, ", ".join(self._sites))
        name = site.cluster.name
        user = await self._mapper.find_cluster_user(identity, name)
        if user is None:
            words = _not_mapped(name)
            raise RequestRejected(words, reason="not_mapped", fields={"cluster": words})
        offered = await site.inventory.fetch(user.name)
        return check_options(request.options, {name: offered.choices}), user


def _not_mapped(cluster: str) -> Words:
    return text(
        "You have no account on {cluster} that is known here. Ask its support for one, or to link"
        " yours.",
        cluster=cluster,
    )


def _refuse_cluster(wanted: object, names: str) -> RequestRejected:
    words = text(
        'There is no cluster "{name}". Choose one of: {names}',
        name=str(wanted)[:80].encode("unicode_escape").decode("ascii"),
        names=names,
    )
    return RequestRejected(words, reason="options", fields={"cluster": words})


def _check_request(request: EnsureRequest) -> None:
    """Refuse what no hub of ours sends: the socket is trusted, its input is checked still."""
    faults: dict[str, Words] = {}
    if not HUB_NAME.fullmatch(request.identity.name):
        faults["identity"] = text("is not a user name of the hub")
    if not request.server_name.isprintable():
        faults["server_name"] = text("has characters that no such name holds")
    if not _BASE_URL.fullmatch(request.base_url):
        faults["base_url"] = text("is not the path of a server")
    if any(
        not _VARIABLE.fullmatch(name) or "\x00" in value
        for name, value in request.environment.items()
    ):
        faults["environment"] = text("has characters that no such name holds")
    if any("\x00" in argument for argument in request.arguments):
        faults["arguments"] = text("has characters that no argument holds")
    if faults:
        raise RequestRejected(
            text("The hub sent a request that cannot be right."), reason="malformed", fields=faults
        )


def _build_identity(model: IdentityModel) -> Identity:
    return Identity(model.source, model.subject, model.name, model.claims)

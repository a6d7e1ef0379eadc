"""Prometheus metrics of the connector, named ``landfall_<noun>_<unit>``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_PHASE_BUCKETS: Final = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 900, 3600, 14400, 86400)
_QUERY_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)
SCHEDULER_OPERATIONS: Final = (
    "submit",
    "find_by_name",
    "fetch_statuses",
    "fetch_end",
    "fetch_estimates",
    "cancel",
    "fetch_partitions",
    "fetch_associations",
    "fetch_reservations",
    "fetch_version",
)
_DIRECTIONS: Final = ("up", "down")


class ConnectorMetrics:
    """The metrics of one connector, in a registry of its own. All label values that are known
    beforehand exist from the start, so that a rate over them has a beginning."""

    def __init__(
        self,
        clusters: Iterable[str],
        *,
        states: Iterable[str],
        end_reasons: Iterable[str],
        roles: Iterable[str],
    ) -> None:
        self.registry = CollectorRegistry()
        self._states = tuple(states)
        self.launches = Gauge(
            "landfall_launches",
            "Launches by state",
            ("cluster", "state"),
            registry=self.registry,
        )
        self.phase_seconds = Histogram(
            "landfall_launch_phase_seconds",
            "Time that launches spent in a state before leaving it",
            ("cluster", "state"),
            buckets=_PHASE_BUCKETS,
            registry=self.registry,
        )
        self.ended = Counter(
            "landfall_launches_ended_total",
            "Launches that ended, by reason",
            ("cluster", "reason"),
            registry=self.registry,
        )
        self.failures = Counter(
            "landfall_failures_total",
            "Errors met while driving launches, by their reason",
            ("cluster", "reason"),
            registry=self.registry,
        )
        self.crashes = Counter(
            "landfall_launch_crashes_total",
            "Faults of this program while driving a launch; it was resumed",
            ("cluster",),
            registry=self.registry,
        )
        self.scheduler_queries = Counter(
            "landfall_scheduler_queries_total",
            "Commands sent to the scheduler",
            ("cluster", "operation", "result"),
            registry=self.registry,
        )
        self.scheduler_seconds = Histogram(
            "landfall_scheduler_query_seconds",
            "Time until the scheduler answered",
            ("cluster", "operation"),
            buckets=_QUERY_BUCKETS,
            registry=self.registry,
        )
        self.ssh_connections = Gauge(
            "landfall_ssh_connections",
            "Open connections to login nodes",
            ("cluster", "role"),
            registry=self.registry,
        )
        self.tunnels = Gauge(
            "landfall_tunnels", "Tunnels that are up", ("cluster",), registry=self.registry
        )
        self.tunnels_lost = Counter(
            "landfall_tunnels_lost_total",
            "Tunnels that were up and were lost",
            ("cluster",),
            registry=self.registry,
        )
        self.bytes = Counter(
            "landfall_tunnel_bytes_total",
            "Bytes carried for browsers; up is towards the job",
            ("cluster", "direction"),
            registry=self.registry,
        )
        self.unknown_native_states = Counter(
            "landfall_unknown_native_states_total",
            "Job states of the scheduler that were not understood",
            ("cluster",),
            registry=self.registry,
        )
        for cluster in clusters:
            self._create_labels(cluster, tuple(end_reasons), tuple(roles))

    def _create_labels(
        self, cluster: str, end_reasons: tuple[str, ...], roles: tuple[str, ...]
    ) -> None:
        for state in self._states:
            self.launches.labels(cluster, state)
            self.phase_seconds.labels(cluster, state)
        for reason in end_reasons:
            self.ended.labels(cluster, reason)
        for operation in SCHEDULER_OPERATIONS:
            self.scheduler_seconds.labels(cluster, operation)
            for result in ("ok", "error"):
                self.scheduler_queries.labels(cluster, operation, result)
        for role in roles:
            self.ssh_connections.labels(cluster, role)
        for direction in _DIRECTIONS:
            self.bytes.labels(cluster, direction)
        for metric in (self.crashes, self.tunnels_lost, self.unknown_native_states):
            metric.labels(cluster)
        self.tunnels.labels(cluster)

    def render(self) -> bytes:
        """Return the Prometheus text."""
        return generate_latest(self.registry)

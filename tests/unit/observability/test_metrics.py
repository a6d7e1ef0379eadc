"""Metrics exist from the start, with names of one shape."""

from __future__ import annotations

import re

import pytest

from gateway.connector.measured import MeasuredScheduler
from gateway.errors import ClusterUnavailable
from gateway.observability.metrics import SCHEDULER_OPERATIONS
from gateway.transport.base import Actor, Role
from tests.fakes import UNAVAILABLE, FakeWorld
from tests.launch_bench import build_metrics


def test_names_and_labels_are_there_before_anything_happened() -> None:
    rendered = build_metrics().render().decode()
    names = re.findall(r"^# TYPE (\S+)", rendered, re.MULTILINE)
    assert names
    assert all(name.startswith("landfall_") for name in names)
    for operation in SCHEDULER_OPERATIONS:
        sample = f'{{cluster="fjord",operation="{operation}",result="error"}} 0.0'
        assert f"landfall_scheduler_queries_total{sample}" in rendered
    assert 'landfall_launches{cluster="fjord",state="ready"} 0.0' in rendered
    assert 'landfall_tunnel_bytes_total{cluster="fjord",direction="up"} 0.0' in rendered


def test_two_connectors_in_one_process_do_not_share() -> None:
    first, second = build_metrics(), build_metrics()
    first.crashes.labels("fjord").inc()
    name, labels = "landfall_launch_crashes_total", {"cluster": "fjord"}
    assert first.registry.get_sample_value(name, labels) == 1
    assert second.registry.get_sample_value(name, labels) == 0


async def test_scheduler_is_measured_and_its_answers_pass_unchanged() -> None:
    world, metrics = FakeWorld(), build_metrics()
    measured = MeasuredScheduler(world, "fjord", metrics)
    assert await measured.fetch_version() == "slurm 23.11.4"
    assert await measured.fetch_partitions() == await world.fetch_partitions()
    world.find_errors = [ClusterUnavailable(UNAVAILABLE)]
    with pytest.raises(ClusterUnavailable):
        await measured.find_by_name(Actor(Role.USER, "alice"), "lf-1")

    def count(operation: str, result: str) -> float | None:
        return metrics.registry.get_sample_value(
            "landfall_scheduler_queries_total",
            {"cluster": "fjord", "operation": operation, "result": result},
        )

    assert count("fetch_version", "ok") == 1
    assert count("find_by_name", "error") == 1
    assert count("find_by_name", "ok") == 0
    seconds = metrics.registry.get_sample_value(
        "landfall_scheduler_query_seconds_count",
        {"cluster": "fjord", "operation": "find_by_name"},
    )
    assert seconds == 1


def test_every_operation_of_the_contract_is_measured() -> None:
    assert set(SCHEDULER_OPERATIONS) == {
        name for name in dir(MeasuredScheduler) if not name.startswith("_")
    }

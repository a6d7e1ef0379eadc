"""One line in the log for each step of a launch, and no secret in any."""

from __future__ import annotations

import logging

import pytest

from gateway.launch.states import LaunchState
from gateway.observability.logs import KeyValueFormatter, SecretMask
from tests.launch_bench import Bench


async def test_each_step_has_one_line_with_its_owner_and_job(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        record, job = await bench.start_ready()
        await bench.registry.stop(record.id, by="alice")
        await bench.reach(record.id, LaunchState.ENDED)
    lines = [KeyValueFormatter(SecretMask()).format(one) for one in caplog.records]
    steps = [line for line in lines if " event=launch " in line]
    for state in ("queued", "starting", "connecting", "ready", "ending", "ended"):
        (line,) = [line for line in steps if f" state={state} " in line]
        for field in (f"launch={record.id}", "cluster=", "user=alice", f"job={job}"):
            assert f" {field}" in line, line
    assert not [line for line in lines if "token-of-the-server" in line]

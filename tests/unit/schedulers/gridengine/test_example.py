"""The example profile of a Grid Engine cluster is complete: it loads, and a job is submitted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.connector.wiring import build_scheduler
from gateway.errors import ConfigurationError
from gateway.profiles.loading import load_profile
from gateway.rendering.renderer import Renderer
from gateway.schedulers.gridengine.adapter import GridEngineScheduler
from gateway.schedulers.gridengine.commands import program_name
from gateway.values.resources import GpuRequest
from tests.unit.schedulers.gridengine.test_adapter import ALICE, OBSERVER, ScriptedTransport, ok
from tests.unit.schedulers.gridengine.test_commands import request

EXAMPLE = Path(__file__).parents[4] / "cluster_profiles" / "gridengine-example.yml"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    known_hosts = tmp_path / "gridengine_example_known_hosts"
    known_hosts.write_text("login.example.org ssh-ed25519 AAAA\n")
    return Path(shutil.copy(EXAMPLE, tmp_path))


async def test_the_example_submits(copy: Path) -> None:
    profile = load_profile(copy)
    assert profile.job_template == "gridengine/notebook.sh.j2"
    asked = request(partition="gpu.q", cores=4, gpus=GpuRequest(1))
    script = Renderer([]).render(profile, replace(asked, environment="jupyter"))
    assert "landfall_load python/3.11" in script.text
    transport = ScriptedTransport(qsub=ok("17\n"))
    scheduler = build_scheduler(transport, profile, OBSERVER)
    assert isinstance(scheduler, GridEngineScheduler)
    assert await scheduler.submit(ALICE, asked, script) == "17"
    ((_, argv),) = transport.asked
    assert argv[:4] == (
        *("env", "SGE_ROOT=/opt/sge", "SGE_CELL=default"),
        "/opt/sge/bin/lx-amd64/qsub",
    )
    assert program_name(["", "", "", "", *argv]) == "qsub"
    assert "h_rt=7200,h_vmem=250M,gpu=1" in argv


def test_faults_are_found_where_they_are(copy: Path) -> None:
    written = copy.read_text()
    for old, new, key in (
        ("parallel_environment: smp", "", "scheduler.parallel_environment"),
        ("memory_per: slot", "memory_per: core", "scheduler.memory_per"),
        ("root: /opt/sge", "root: sge", "scheduler.root"),
        ("gpu_complex: gpu", "gpu_complexes: gpu", 'did you mean "gpu_complex"'),
    ):
        copy.write_text(written.replace(old, new, 1))
        with pytest.raises(ConfigurationError) as caught:
            load_profile(copy)
        assert key in caught.value.detail

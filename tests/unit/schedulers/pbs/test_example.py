"""The example profile of a PBS cluster is complete: it loads, and a job is submitted with it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.connector.wiring import build_scheduler
from gateway.errors import ConfigurationError
from gateway.profiles.loading import load_profile
from gateway.profiles.models import ClusterProfile, PbsSchedulerProfile
from gateway.rendering.renderer import Renderer
from gateway.schedulers.pbs.adapter import PbsScheduler
from gateway.values.jobs import JobScript
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest
from tests.unit.schedulers.pbs.server import ALICE, OBSERVER, Told
from tests.unit.schedulers.pbs.test_commands import REQUEST

EXAMPLE = Path(__file__).parents[4] / "cluster_profiles" / "pbs-example.yml"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "pbs_example_known_hosts").write_text("login.example.org ssh-ed25519 AAAA\n")
    return Path(shutil.copy(EXAMPLE, tmp_path))


async def test_the_example_submits(copy: Path) -> None:
    profile = load_profile(copy)
    assert profile.job_template == "pbs/notebook.sh.j2"
    resources = ResourceRequest(
        "gpu", timedelta(hours=2), 4, MemorySize.parse("8G"), GpuRequest(1, "a100")
    )
    request = replace(REQUEST, resources=resources, environment="jupyter")
    script = Renderer([]).render(profile, request)
    assert "landfall_load python/3.11" in script.text
    told = Told(lambda _: (0, "17.pbs\n", ""))
    scheduler = build_scheduler(told, profile, OBSERVER)
    assert isinstance(scheduler, PbsScheduler)
    assert await scheduler.submit(ALICE, request, JobScript(script.text)) == "17.pbs"
    command = told.asked[0][1]
    assert command[0] == "/opt/pbs/bin/qsub"
    assert "select=1:ncpus=4:mem=8192mb:ngpus=1:gpu_type=a100" in command


def test_faults_are_found_where_they_are(copy: Path) -> None:
    written = copy.read_text()
    for old, new, key in (
        ("request_style: select", "request_style: torque", "scheduler.request_style"),
        ("gpu_resource: ngpus", "gpu_resource: 'a,b'", "scheduler.gpu_resource"),
        ("account_option: project", "place: 'a b'", "scheduler.place"),
        ("account_option: project", "gpu_resources: x", 'did you mean "gpu_resource"'),
        ("kind: pbs", "kind: torque", "scheduler"),
    ):
        copy.write_text(written.replace(old, new, 1))
        with pytest.raises(ConfigurationError) as caught:
            load_profile(copy)
        assert key in caught.value.detail


def test_the_template_follows_the_kind(copy: Path) -> None:
    values = dict(load_profile(copy))
    del values["job_template"]
    values["scheduler"] = PbsSchedulerProfile(kind="pbs")
    assert ClusterProfile.model_validate(values).job_template == "pbs/notebook.sh.j2"
    values["job_template"] = "site.sh.j2"
    assert ClusterProfile.model_validate(values).job_template == "site.sh.j2"

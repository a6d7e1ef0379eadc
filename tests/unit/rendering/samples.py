"""Profiles and requests for the rendering tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from gateway.profiles.models import ClusterProfile
from gateway.values.identity import ClusterUser
from gateway.values.jobs import JobRequest
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest

LAUNCH = "0123456789abcdef"
DIRECTORY = f"/home/alice/.local/state/landfall/launches/{LAUNCH}"


def build_profile(*, template: str = "slurm/notebook.sh.j2", **environment: Any) -> ClusterProfile:
    """A profile with one environment, ``science``."""
    return ClusterProfile.model_validate(
        {
            "name": "north",
            "title": {"en": "North", "fr": "Nord"},
            "scheduler": {"kind": "slurm"},
            "login": {"hosts": [{"host": "login"}], "known_hosts": "/etc/landfall/known_hosts"},
            "roles": {"observer": {"name": "watcher"}},
            "partitions": {"main": {"max_walltime": "8h", "max_memory": "20G"}},
            "environments": {
                "science": {"title": {"en": "Science", "fr": "Sciences"}, **environment}
            },
            "job_template": template,
        }
    )


def build_request(**changes: Any) -> JobRequest:
    """Alice's request."""
    request = JobRequest(
        launch_id=LAUNCH,
        name=f"lf-{LAUNCH}",
        user=ClusterUser("north", "alice"),
        resources=ResourceRequest(
            partition="main",
            walltime=timedelta(hours=1),
            cores=2,
            memory=MemorySize.parse("4G"),
            gpus=GpuRequest(1, "a100"),
        ),
        environment="science",
        directory=DIRECTORY,
        log_path=f"{DIRECTORY}/job.log",
        agent_path="/home/alice/.local/state/landfall/agent-1.py",
    )
    return replace(request, **changes)

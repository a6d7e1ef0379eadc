"""The job template, rendered for every environment of the profile; nothing is sent anywhere."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from gateway.doctor.findings import Finding, ok
from gateway.doctor.subject import Subject
from gateway.text import text
from gateway.values.identity import ClusterUser
from gateway.values.jobs import JobRequest
from gateway.values.resources import MemorySize, ResourceRequest

_LAUNCH: Final = "0" * 16
_DIRECTORY: Final = f"/home/somebody/launches/{_LAUNCH}"


async def check_templates(subject: Subject) -> Finding:
    """Render it.

    :raises ConfigurationError: it has a fault.
    """
    profile = subject.profile
    for environment in profile.environments:
        subject.renderer.render(
            profile,
            JobRequest(
                launch_id=_LAUNCH,
                name=f"lf-{_LAUNCH}",
                user=ClusterUser(profile.name, "somebody"),
                resources=ResourceRequest(
                    partition=next(iter(profile.partitions)),
                    walltime=timedelta(hours=1),
                    cores=1,
                    memory=MemorySize(1024),
                ),
                environment=environment,
                directory=_DIRECTORY,
                log_path=f"{_DIRECTORY}/job.log",
                agent_path=f"{_DIRECTORY}/agent.py",
            ),
        )
    return ok(
        text(
            "{template} renders for {names}",
            template=profile.job_template,
            names=", ".join(profile.environments),
        )
    )

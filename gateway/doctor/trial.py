"""The test job: a real one, as a real user, from the launch directory to the tunnel and away again.

It asks for one core for a few minutes. Whatever happens, :meth:`Trial.remove` cancels the job and
removes its directory; it is safe to call at any point.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from gateway.connector.wiring import build_scheduler
from gateway.doctor.findings import Finding, Outcome, fail, ok, skipped, warn
from gateway.doctor.remedies import explain_end, explain_node, explain_tunnel
from gateway.doctor.stand_in import HubStandIn, ask_stand_in, build_profile
from gateway.doctor.subject import Subject
from gateway.errors import ClusterUnavailable, GatewayError, NotAnnounced, SubmitAmbiguous
from gateway.launch.cluster import Patience
from gateway.launch.states import LaunchRecord, LaunchState, new_launch_id
from gateway.launch.submitting import build_job_request
from gateway.launch.workspace import fetch_log_tail, prepare_directory
from gateway.options.choices import PartitionOffer, build_choices
from gateway.rendering.job_log import parse_job_log
from gateway.text import Text, Words, text
from gateway.transport.base import Actor
from gateway.transport.connecting import close_connection
from gateway.tunnel.base import ServerStart, Tunnel, TunnelTarget
from gateway.values.endpoints import EdgeAddress
from gateway.values.identity import ClusterUser, Identity
from gateway.values.jobs import JobId, JobState, JobStatus
from gateway.values.resources import MemorySize, format_walltime

WALLTIME: Final = timedelta(minutes=5)
MEMORY: Final = MemorySize(512)
LOOK_SECONDS: Final = 0.5
START_SECONDS: Final = 60.0
REMOVE_SECONDS: Final = 60.0
_GONE: Final = (JobState.FINISHED, JobState.MISSING)
FREE_KIB: Final = 500 * 1024
FREE_INODES: Final = 2000

# $1 a directory: free KiB and inodes of its file system ("-" where it does not count inodes).
_FREE: Final = """
cd "$1" || exit 1
df -Pk . | awk 'NR == 2 { print "kib", $4 }'
df -Pi . 2>/dev/null | awk 'NR == 2 { print "inodes", ($2 + 0 > 0 ? $4 : "-") }'
"""
# $1 directory below the home, $2 launch id: all of the launch goes, what is above stays.
_REMOVE: Final = 'cd "${HOME:?}" && rm -rf -- "./$1/launches/$2"'


class Trial:
    """One test job, station by station."""

    def __init__(self, subject: Subject, actor: Actor) -> None:
        self._subject = subject
        self._actor = actor
        self._environment = subject.question.environment or next(iter(subject.profile.environments))
        self._cluster = subject.build_cluster(build_profile(subject.profile, self._environment))
        # Waiting for the job must not depend on what the observer may see.
        self._scheduler = build_scheduler(subject.transport, subject.profile, actor)
        now = datetime.now(UTC)
        self._record = LaunchRecord(
            id=new_launch_id(),
            cluster=subject.profile.name,
            identity=Identity("doctor", actor.name, "doctor"),
            server_name="",
            cluster_user=ClusterUser(subject.profile.name, actor.name),
            options={},
            base_url="/",
            edge=EdgeAddress("127.0.0.1", 1),
            state=LaunchState.SUBMITTING,
            created_at=now,
            changed_at=now,
        )
        self._begun = False
        self._submit_tried = False
        self._node: str | None = None

    @property
    def environment(self) -> str:
        """The software environment that is tried."""
        return self._environment

    async def check_directory(self) -> Finding:
        """Make the launch directory and write the agent into it; look what is free there."""
        self._begun = True
        directory = await prepare_directory(self._cluster, self._record)
        self._record = replace(self._record, directory=directory)
        result = await self._run("/bin/sh", "-c", _FREE, "sh", directory)
        free = dict(line.split(maxsplit=1) for line in result.splitlines() if " " in line)
        kib, inodes = free.get("kib", "-"), free.get("inodes", "-")
        words = text(
            "{directory} is writable; free: {mib} MiB, {inodes} inodes",
            directory=directory.removesuffix(f"/launches/{self._record.id}"),
            mib=int(kib) // 1024 if kib.isdecimal() else "?",
            inodes=inodes,
        )
        if (kib.isdecimal() and int(kib) < FREE_KIB) or (
            inodes.isdecimal() and int(inodes) < FREE_INODES
        ):
            return warn(
                words,
                text("The file system is nearly full: sessions will fail when it is."),
            )
        return ok(words)

    async def submit(self) -> Finding:
        """Render the profile's own template with the stand-in, and submit."""
        offer, options = await self._choose()
        self._record = replace(self._record, options=options)
        request = build_job_request(self._record)
        script = self._cluster.renderer.render(self._cluster.profile, request)
        self._submit_tried = True
        try:
            job = await self._cluster.scheduler.submit(self._actor, request, script)
        except SubmitAmbiguous:
            found = await self._scheduler.find_by_name(self._actor, self._record.job_name)
            if not found:
                raise
            job = found[0]
        self._record = replace(self._record, job_id=job)
        return ok(
            text(
                "job {job} in partition {partition}, environment {environment}, for {walltime}",
                job=job,
                partition=offer.name,
                environment=self._environment,
                walltime=options["walltime"],
            )
        )

    async def _choose(self) -> tuple[PartitionOffer, dict[str, Any]]:
        subject = self._subject
        partitions = subject.partitions or await subject.scheduler.fetch_partitions()
        accounts = await subject.scheduler.fetch_associations(self._actor.name)
        choices = build_choices(subject.profile, partitions, accounts, ())
        offers = [offer for offer in choices.partitions.values() if offer.up]
        if not offers:
            raise ClusterUnavailable(
                text("No partition of the profile takes jobs of this user now."),
                reason="no_partition",
            )
        # The default one, unless another starts at once and it does not.
        offers.sort(key=lambda o: ((o.free_cores or 0) < 1, o.name != choices.default_partition))
        offer = offers[0]
        options: dict[str, Any] = {
            "partition": offer.name,
            "walltime": format_walltime(min(WALLTIME, offer.max_walltime)),
            "cores": 1,
            "memory": str(min(MEMORY, offer.max_memory)),
            "environment": self._environment,
        }
        allowed = [
            a for a in choices.accounts if offer.accounts is None or a.account in offer.accounts
        ]
        if allowed:
            options["account"] = sorted(allowed, key=lambda a: not a.default)[0].account
        return offer, options

    async def check_observer(self) -> Finding:
        """The observer sees the user's job."""
        observer = self._subject.observer
        status = (await self._subject.scheduler.fetch_statuses([self._job]))[self._job]
        if status.state is not JobState.MISSING:
            return ok(
                text(
                    "{observer} finds the job of {user} ({state})",
                    observer=observer.name,
                    user=self._actor.name,
                    state=status.native_state or status.state,
                )
            )
        return fail(
            text("{observer} does not see a job of {user}", observer=observer.name,
                 user=self._actor.name),
            text(
                "PrivateData=jobs in slurm.conf hides jobs from others. Make the account an "
                "operator: sacctmgr modify user {observer} set adminlevel=operator (sacctmgr add "
                "user first, where it has none).",
                observer=observer.name,
            ),
        )  # fmt: skip

    async def wait_running(self) -> Finding:
        """Wait until the job runs."""
        begun = time.monotonic()
        deadline = begun + self._subject.question.wait_seconds
        while True:
            status = await self._fetch_status()
            if status.state is JobState.RUNNING and status.batch_node:
                self._node = status.batch_node
                return ok(text("runs on {node}", node=status.batch_node))
            if status.state in _GONE:
                return await self._explain_early_end(status)
            if time.monotonic() > deadline:
                reason: Words | str = status.reason_words or status.native_reason or "?"
                return Finding(
                    Outcome.SKIPPED,
                    text(
                        "it still waits after {seconds} s: {reason}",
                        seconds=round(time.monotonic() - begun),
                        reason=reason,
                    ),
                    (text("Give it longer with --wait SECONDS, or try when the cluster is free."),),
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def check_node(self) -> Finding:
        """Sign in at the job's compute node, as the user, as tunnels do."""
        node = self._require_node()
        try:
            connection = await self._subject.pool.node(self._actor.name, node)
        except GatewayError as error:
            remedies = explain_node(self._subject, self._actor, node, error)
            return await self._explain_closed_door(error, remedies)
        await close_connection(connection)
        return ok(text("{node} admits {user} while the job runs", node=node, user=self._actor.name))

    async def check_tunnel(self) -> Finding:
        """Open the tunnel to the agent and ask the stand-in through it, both ways."""
        hub = HubStandIn(self._subject.directory / "hub.sock")
        async with hub.serve():
            try:
                tunnel = await self._open_tunnel(hub)
            except NotAnnounced as error:
                status = await self._fetch_status()
                return await self._explain_early_end(status, otherwise=error)
            except GatewayError as error:
                return await self._explain_closed_door(error, explain_tunnel(error))
            try:
                return await self._use(tunnel, hub)
            finally:
                await tunnel.close()

    async def _open_tunnel(self, hub: HubStandIn) -> Tunnel:
        target = TunnelTarget(
            launch_id=self._record.id,
            user=self._record.cluster_user,
            node=self._require_node(),
            launch_directory=self._record.directory or "",
            hub_api_socket=hub.path,
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return await self._subject.opener.open(target, timeout=Patience().announcement / 4)
            except NotAnnounced:
                ended = (await self._fetch_status()).state in _GONE
                if ended or time.monotonic() > deadline:
                    raise

    async def _use(self, tunnel: Tunnel, hub: HubStandIn) -> Finding:
        phase = await tunnel.send_start(ServerStart("doctor", {}))
        try:
            async with asyncio.timeout(START_SECONDS):
                while phase.phase not in ("listening", "ended"):
                    phase = await tunnel.wait_phase_change(phase)
        except TimeoutError:
            return fail(text("the stand-in for the server does not start"))
        if phase.phase == "ended":
            return fail(text("the stand-in for the server ended at once"), detail=phase.words[:300])
        told = await ask_stand_in(tunnel)
        real = self._subject.profile.environments[self._environment].command[0]
        if told.hub != hub.word:
            return fail(
                text("what the job says to the hub does not come back through the tunnel"),
                text(
                    "Forwarded sockets must work from the node to here too: "
                    "AllowStreamLocalForwarding yes in sshd_config of compute nodes."
                ),
                detail=told.hub[:200],
            )
        if told.command is None:
            return fail(
                text(
                    "the tunnel works both ways; the environment {environment} lacks {command}",
                    environment=self._environment,
                    command=real,
                ),
                text("Correct command, modules or setup of the environment in the profile."),
            )
        return ok(
            text(
                "works both ways; Python {python} runs the agent, {command} is there",
                python=told.python,
                command=told.command,
            )
        )

    async def _explain_closed_door(
        self, error: GatewayError, remedies: tuple[Text, ...]
    ) -> Finding:
        """A node shuts out users whose job has ended: then the job is what failed."""
        status = await self._fetch_status()
        if status.state in (*_GONE, JobState.ENDING):
            return await self._explain_early_end(status)
        return fail(error.user_message, *remedies, detail=error.detail)

    async def _explain_early_end(
        self, status: JobStatus, *, otherwise: GatewayError | None = None
    ) -> Finding:
        tail = await fetch_log_tail(self._cluster, self._record)
        said = parse_job_log(tail)
        words: Words
        if said is not None:
            words = said.words
        elif status.end is not None:
            words = status.end.words
        elif otherwise is not None:
            words = otherwise.user_message
        else:
            words = text("the job is gone")
        remedies: tuple[Text, ...] = explain_end(
            said.reason if said is not None else "", self._environment
        )
        return fail(words, *remedies, detail="\n".join(tail.strip().splitlines()[-5:])[-600:])

    async def remove(self) -> Finding:
        """Cancel the job, wait until it has ended, and remove its directory. Never raises
        :class:`GatewayError`: what could not be removed is told."""
        if not self._begun:
            return skipped(text("there is nothing to remove"))
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                await self._remove()
        except (GatewayError, TimeoutError) as error:
            return fail(
                text(
                    "the test job {job} or its directory {directory} may still be there; remove "
                    "them by hand",
                    job=self._record.job_id or self._record.job_name,
                    directory=self._record.directory or "-",
                ),
                detail=str(error) or "timeout",
            )
        return ok(text("the job has ended and its directory is gone"))

    async def _remove(self) -> None:
        jobs: tuple[JobId, ...] = ()
        if self._record.job_id is not None:
            jobs = (self._record.job_id,)
        elif self._submit_tried:
            jobs = await self._scheduler.find_by_name(self._actor, self._record.job_name)
        for job in jobs:
            await self._cluster.scheduler.cancel(self._actor, job)
        # They may still write into their directory until they have ended.
        waiting = bool(jobs)
        while waiting:
            found = await self._look(jobs)
            waiting = any(status.state not in _GONE for status in found.values())
            await asyncio.sleep(LOOK_SECONDS if waiting else 0)
        below_home = self._subject.profile.launch_directory
        await self._run("/bin/sh", "-c", _REMOVE, "sh", below_home, self._record.id)

    # Small things

    @property
    def _job(self) -> JobId:
        if self._record.job_id is None:
            raise AssertionError("needs the station that submits")
        return self._record.job_id

    def _require_node(self) -> str:
        if self._node is None:
            raise AssertionError("needs the station that waits for the job")
        return self._node

    async def _fetch_status(self) -> JobStatus:
        return (await self._look([self._job]))[self._job]

    async def _look(self, jobs: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        return await self._scheduler.fetch_statuses(jobs)

    async def _run(self, *argv: str) -> str:
        result = await self._subject.transport.run(self._actor, argv, timeout=timedelta(seconds=30))
        if result.exit_status != 0:
            raise ClusterUnavailable(
                text("A command in the launch directory failed."),
                detail=result.error_text[-300:],
                reason="directory",
            )
        return result.text

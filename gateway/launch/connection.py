"""The way to a running job: a tunnel, opened again after every loss, without touching the job."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, NotAnnounced
from gateway.launch.cluster import Edge
from gateway.launch.progress import Progress
from gateway.launch.secrets import StartSecrets
from gateway.launch.states import EndReason, LaunchRecord, LaunchState
from gateway.launch.waiting import Backoff, bounded
from gateway.observability.logs import log_event, secret_mask
from gateway.text import text
from gateway.tunnel.base import AgentPhase, Tunnel, TunnelTarget
from gateway.tunnel.hub_api_rules import HubApiScope
from gateway.values.jobs import JobState

logger = logging.getLogger("gateway.launch")

_CLOSE_SECONDS: Final = 5.0
_ENDED: Final = text("The server has ended; waiting for the job to end.")


class Connection:
    """Keeps one launch connected while its job runs."""

    def __init__(self, progress: Progress, edge: Edge) -> None:
        self._progress = progress
        self._edge = edge
        self._tunnel: Tunnel | None = None

    async def keep(self, record: LaunchRecord) -> None:
        """Keep a tunnel to this run up until cancelled.

        Returns only when the start deadline has passed without an announcement; the launch is
        ENDING then.
        """
        progress, run = self._progress, self._progress.run
        silence = _Silence()
        patience = progress.cluster.patience
        backoff = Backoff(patience.backoff_first, patience.backoff_limit)
        if record.state is LaunchState.READY:
            record = await progress.transition(
                LaunchState.CONNECTING, text("Connecting to the server again."), run=run
            )
        while True:
            try:
                tunnel = await self._open(progress.record)
            except NotAnnounced as error:
                if silence.count(counts=self._job_runs()) > self._deadline:
                    await self._end_unreached(run)
                    return
                if progress.record.unannounced_since is None:
                    await progress.update(unannounced_since=progress.store.now())
                progress.say(error.user_message)
                backoff.reset()  # the look itself has waited
            except (ClusterUnavailable, ClusterRefused) as error:
                silence.interrupt()
                progress.note(error, "open the tunnel")
                # A job that has ended shuts the node to its user: ask, rather than knock on.
                progress.cluster.monitor.ask_soon()
            else:
                opened_at = asyncio.get_running_loop().time()
                ended = False
                try:
                    await self._use(tunnel, run)
                except (ClusterUnavailable, ClusterRefused) as error:
                    progress.note(error, "use the tunnel")
                finally:
                    ended = tunnel.phase.phase == "ended"
                    await self._drop(tunnel)
                progress.cluster.monitor.ask_soon()
                if progress.record.state is LaunchState.READY:
                    await progress.transition(
                        LaunchState.CONNECTING,
                        _ENDED
                        if ended
                        else text("The connection to the server was lost. The job keeps running."),
                        run=run,
                    )
                # One that is lost at once, again and again, is not hurried.
                if asyncio.get_running_loop().time() - opened_at > patience.backoff_limit:
                    backoff.reset()
            await backoff.wait()

    async def say_farewell(self) -> None:
        """Tell the agent that the server is to end, when it can be told."""
        tunnel = self._tunnel
        if tunnel is None:
            return
        try:
            await bounded(tunnel.send_stop(), self._progress.cluster.patience.farewell)
        except (ClusterUnavailable, ClusterRefused) as error:
            self._progress.note(error, "tell the agent of the end")

    @property
    def _deadline(self) -> float:
        return self._progress.cluster.profile.start_deadline.total_seconds()

    def _job_runs(self) -> bool:
        status = self._progress.status
        return (
            self._progress.record.reached_nonce is None
            and status is not None
            and status.state is JobState.RUNNING
        )

    async def _open(self, record: LaunchRecord) -> Tunnel:
        cluster = self._progress.cluster
        if record.node is None or record.directory is None:
            raise ConfigurationError(
                text("The launch has neither a node nor a directory."), reason="incomplete"
            )
        secrets = await self._progress.store.fetch_start(
            record.id, record.running_start_id or record.offered_start_id
        )
        return await cluster.opener.open(
            TunnelTarget(
                launch_id=record.id,
                user=record.cluster_user,
                node=record.node,
                launch_directory=record.directory,
                hub_api_socket=await cluster.hub_api.add(record.id, _build_scope(record, secrets)),
                stale_nonce=record.former_nonce,
            ),
            timeout=cluster.patience.announcement,
        )

    async def _use(self, tunnel: Tunnel, run: int) -> None:
        """Bring the server up behind ``tunnel`` and stay until the tunnel is lost."""
        progress = self._progress
        self._tunnel = tunnel
        await self._meet_agent(tunnel.announcement.nonce, run)
        phase = await self._start_server(tunnel)
        while phase.phase not in ("listening", "ended"):
            progress.say(text("The server starts on the compute node."))
            phase = await tunnel.wait_phase_change(phase)
        if phase.phase == "listening":
            self._edge.connect(tunnel)
            progress.show_tunnel(up=True)
            await progress.transition(LaunchState.READY, text("The server is ready."), run=run)
            while phase.phase != "ended":
                phase = await tunnel.wait_phase_change(phase)
        self._edge.disconnect()
        progress.say(_ENDED)
        progress.cluster.monitor.ask_soon()
        await tunnel.wait_closed()

    async def _meet_agent(self, nonce: str, run: int) -> None:
        progress = self._progress
        if progress.record.state is LaunchState.STARTING:
            await progress.transition(
                LaunchState.CONNECTING,
                text("The job runs; the server is being started."),
                run=run,
                reached_nonce=nonce,
                unannounced_since=None,
            )
        elif progress.record.reached_nonce != nonce:
            # The agent was started anew before the scheduler told us: it waits for its start.
            await progress.update(reached_nonce=nonce, offered_start_id=None, running_start_id=None)

    async def _start_server(self, tunnel: Tunnel) -> AgentPhase:
        progress = self._progress
        phase = tunnel.phase
        if phase.start_id is None:
            secrets = await progress.store.offer(progress.id)
            if secrets is None:
                raise ConfigurationError(
                    text("The secrets of this launch are lost; please stop it and start again."),
                    reason="secrets_lost",
                )
            await self._let_in(secrets)
            phase = await tunnel.send_start(secrets.server_start)
        if phase.start_id is not None and phase.start_id != progress.record.running_start_id:
            in_force = await progress.store.fetch_start(progress.id, phase.start_id)
            if in_force is None:
                log_event(
                    logger,
                    logging.WARNING,
                    "the agent runs a server that was not started from here",
                    launch=progress.id,
                    start=phase.start_id,
                )
            else:
                await self._let_in(in_force)
                await progress.update(running_start_id=phase.start_id, token_id=in_force.token_id)
        return phase

    async def _let_in(self, secrets: StartSecrets) -> None:
        record = self._progress.record
        await self._progress.cluster.hub_api.add(record.id, _build_scope(record, secrets))

    async def _drop(self, tunnel: Tunnel) -> None:
        self._tunnel = None
        self._edge.disconnect()
        self._progress.show_tunnel(up=False)
        await bounded(tunnel.close(), _CLOSE_SECONDS)

    async def _end_unreached(self, run: int) -> None:
        minutes = max(1, round(self._deadline / 60))
        words = text(
            "The job ran for {minutes} minutes without its server becoming reachable, and was"
            " cancelled.",
            minutes=minutes,
        )
        await self._progress.transition(
            LaunchState.ENDING,
            words,
            run=run,
            by="connector",
            end_reason=EndReason.NEVER_REACHED,
            end_words=words,
        )


class _Silence:
    """Seconds during which we looked, were answered, and the agent was not there."""

    def __init__(self) -> None:
        self._total = 0.0
        self._last: float | None = None

    def count(self, *, counts: bool) -> float:
        """An answered look; only time between two of them in a row counts."""
        now = asyncio.get_running_loop().time()
        if counts and self._last is not None:
            self._total += now - self._last
        self._last = now if counts else None
        return self._total

    def interrupt(self) -> None:
        """A look that was not answered."""
        self._last = None


def _build_scope(record: LaunchRecord, secrets: StartSecrets | None) -> HubApiScope:
    environment = secrets.environment if secrets else {}
    token = (secrets.api_token if secrets else None) or ""
    secret_mask.hold(record.id, token)
    return HubApiScope(
        hub_user=record.identity.name,
        server_name=record.server_name,
        client_id=environment.get(
            "JUPYTERHUB_CLIENT_ID", f"jupyterhub-user-{record.identity.name}"
        ),
        token=token,
    )

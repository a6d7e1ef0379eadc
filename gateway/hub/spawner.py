"""The spawner: asks the connector for a launch, relays what it says, and knows nothing more.

JupyterHub's own code decides when ``start``, ``poll`` and ``stop`` are called; what it does with
their answers (6.1.1, ``user.py``, ``app.py``, ``handlers/base.py``) is why they are as they are:

* ``poll`` returning a number, or raising, makes the hub drop the server: it never raises, and
  "could not ask" is "running".
* ``stop`` is called when a person asks, and also when the hub tidies up after a probe that failed
  or a ``start`` that was cut off. Only the former ends the job: :meth:`GatewaySpawner._asked_by`.
* The hub stores a server's address and state after ``start`` returned; a job may wait for days
  before, so both are stored as soon as the launch is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from batchspawner import BatchSpawnerBase
from traitlets import Callable, Integer, Unicode, default

from gateway.connector.client import ConnectorClient
from gateway.connector.models import EnsureAnswer, EnsureRequest, LaunchView
from gateway.errors import ClusterUnavailable, GatewayError, RequestRejected
from gateway.hub.connection import build_identity, connector_client
from gateway.hub.inherited import check_inherited
from gateway.hub.language import parse_accept_language
from gateway.hub.refusals import LaunchEnded, LaunchRefused, render_words
from gateway.hub.tokens import find_token_id, forget_token, revoke_by_id, session_of
from gateway.launch.states import EndReason, LaunchState
from gateway.text import Language
from gateway.values.endpoints import HUB_SOCKET_PLACEHOLDER

# jupyterhub-singleuser listens on a unix socket only when its service URL names this port.
SERVICE_PORT: Final = 8888
TOKEN_VARIABLES: Final = ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN")
POLL_TIMEOUT: Final = 4.0
ENSURE_PATIENCE: Final = 45.0
STOP_PATIENCE: Final = 20.0
END_PATIENCE: Final = 8.0
LONGEST_PAUSE: Final = 10.0
_CLEAN_ENDS: Final = frozenset({EndReason.STOPPED, EndReason.COMPLETED})
_PROGRESS: Final = {
    LaunchState.REQUESTED: 5,
    LaunchState.SUBMITTING: 10,
    LaunchState.QUEUED: 25,
    LaunchState.STARTING: 55,
    LaunchState.CONNECTING: 80,
    LaunchState.READY: 95,
    LaunchState.ENDING: 95,
    LaunchState.ENDED: 100,
}


def _leave_to_start(spawner: Any, user_options: dict[str, Any]) -> None:
    # Options come through four doors (form, API, stored, resumed); start() has them all checked.
    return None


class GatewaySpawner(BatchSpawnerBase):
    """Starts single-user servers as launches of the connector."""

    connector_socket = Unicode(help="Unix socket of the connector.").tag(config=True)
    identity_source = Unicode(
        "hub", help="Name of the sign-in, the first key of the identity table."
    ).tag(config=True)
    idle_timeout = Integer(
        0, help="Seconds after which the culler stops an idle server; 0: no culler."
    ).tag(config=True)
    connector = Callable(
        connector_client, help="Makes the client from the socket path; for tests."
    ).tag(config=True)

    @default("apply_user_options")  # type: ignore[untyped-decorator]
    def _default_apply_user_options(self) -> Any:
        return _leave_to_start

    @default("env_keep")  # type: ignore[untyped-decorator]
    def _default_env_keep(self) -> list[str]:
        # PATH, LANG and the like of the hub host mean nothing on a compute node.
        return []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_inherited(self.config)
        self.view: LaunchView | None = None
        self.asked_by: str | None = None
        self._changed = asyncio.Event()
        self._exit_status: int | None = None
        self._ensuring: asyncio.Task[EnsureAnswer] | None = None

    api_token: str  # a trait of the base class, which has no types

    # State, as the hub stores it.

    launch_id: str = ""
    edge_ip: str = ""
    edge_port: int = 0
    token_id: str = ""
    language: Language = "en"

    def get_state(self) -> dict[str, Any]:
        """Return what a restarted hub needs to find the launch and its edge."""
        state: dict[str, Any] = super().get_state()
        if self.launch_id:
            # A kept token whose row was deleted meanwhile has got another row by now.
            self.token_id = find_token_id(self) or self.token_id
            state |= {
                "launch_id": self.launch_id,
                "edge_ip": self.edge_ip,
                "edge_port": self.edge_port,
                "token_id": self.token_id,
                "language": self.language,
            }
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`get_state` gave."""
        super().load_state(state)
        self.launch_id = str(state.get("launch_id", ""))
        self.edge_ip = str(state.get("edge_ip", ""))
        self.edge_port = int(state.get("edge_port", 0))
        self.token_id = str(state.get("token_id", ""))
        self.language = "fr" if state.get("language") == "fr" else "en"

    def clear_state(self) -> None:
        """Forget the launch; it is over, or a new one begins."""
        super().clear_state()
        self.launch_id = self.edge_ip = self.token_id = ""
        self.edge_port = 0
        self.view = None
        self.asked_by = None
        self._exit_status = None
        self._ensuring = None

    @property
    def client(self) -> ConnectorClient:
        """The connector's client."""
        client: ConnectorClient = self.connector(self.connector_socket)
        return client

    # start, poll, stop

    async def start(self) -> str:
        """Adopt or make the launch of this server and wait until it can be used.

        :returns: the URL of the launch's edge.
        :raises LaunchRefused: 4xx what the user must change; 502, 503 what somebody must look at.
        :raises LaunchEnded: when the job ended before it could be used.
        """
        if self.handler is not None:
            header = self.handler.request.headers.get("Accept-Language", "")
            self.language = parse_accept_language(header)
        # As a task of its own: a cancelled start() must not leave a launch nobody knows of.
        self._ensuring = asyncio.create_task(self._ensure(self._build_request()))
        try:
            answer = await asyncio.shield(self._ensuring)
        except RequestRejected as error:
            raise LaunchRefused(error, self.language, status_code=400) from error
        except GatewayError as error:
            status = 503 if error.transient else 502
            raise LaunchRefused(error, self.language, status_code=status) from error
        self._record(answer)
        try:
            async with aclosing(self._watch(answer.launch.id)) as views:
                async for view in views:
                    if view.state is LaunchState.READY:
                        return self._edge_url()
                    if view.state is LaunchState.ENDED:
                        raise LaunchEnded(view, self.language)
        except RequestRejected as error:
            self._exit_status = 1
            raise LaunchRefused(error, self.language, status_code=502) from error
        raise AssertionError("a watch ends with a launch that has ended")

    async def poll(self) -> int | None:
        """Return ``None`` while the server lives or cannot be asked about; else an exit status.

        An exit status, once given, stands: the hub asks again before it tidies up.
        """
        if self._exit_status is not None:
            return self._exit_status
        if not self.launch_id:
            ensuring = self._ensuring
            return 0 if ensuring is None or _failed(ensuring) else None
        try:
            async with asyncio.timeout(POLL_TIMEOUT):
                view = await self.client.launch(self.launch_id)
        except RequestRejected as error:
            if error.reason != "not_found":
                return None
            self.log.warning("%s: the connector knows no launch %s", self._log_name, self.launch_id)
            self._exit_status = 1
            revoke_by_id(self, self.token_id)
            return 1
        except (GatewayError, TimeoutError) as error:
            self.log.warning("%s: could not ask the connector: %s", self._log_name, error)
            return None
        self._notice(view)
        if view.state is not LaunchState.ENDED:
            return None
        clean = view.end is not None and view.end.reason in _CLEAN_ENDS
        self._exit_status = 0 if clean else 1
        revoke_by_id(self, self.token_id)
        return self._exit_status

    async def stop(self, now: bool = False) -> None:
        """End the launch, when somebody asked for it; otherwise only let go of it.

        Returns when the job is gone, or after some seconds: the connector keeps at it.
        """
        by = self._asked_by()
        if by is None:
            self.log.warning(
                "%s: not stopped: nobody asked; launch %s goes on", self._log_name, self.launch_id
            )
            return
        launch_id = await self._find_launch()
        if not launch_id:
            return
        view = await self._tell_stop(launch_id, by)
        if view is not None and view.state is not LaunchState.ENDED and not now:
            await self._wait_for_end(launch_id)
        revoke_by_id(self, self.token_id)

    async def get_url(self) -> str:
        """Return the edge's URL, with the server's path, as the hub stores it.

        A starting hub asks for it before it probes the server. The edge is there when the connector
        is, so the connector is waited for, however long; a probe without it would make the hub let
        go of a healthy server.
        """
        if self.launch_id:
            await self._wait_for_connector()
        if not self.edge_ip:
            url: str = await super().get_url()
            return url
        return f"{self._edge_url()}{self.server.base_url}"

    async def progress(self) -> AsyncGenerator[dict[str, Any], None]:
        """Tell what happens, a message for each change."""
        told: LaunchView | None = None
        while True:
            view, changed = self.view, self._changed
            if view is not None and view != told:
                told = view
                message = render_words(view.words, self.language)
                yield {"progress": _PROGRESS[view.state], "message": message}
                if view.state in (LaunchState.READY, LaunchState.ENDED):
                    return
            await changed.wait()

    # How they do it

    def _build_request(self) -> EnsureRequest:
        self.ip, self.port = "127.0.0.1", SERVICE_PORT
        self.hub_connect_url = f"http+unix://{HUB_SOCKET_PLACEHOLDER}"
        environment = {
            name: str(value)
            for name, value in self.get_env().items()
            if name not in TOKEN_VARIABLES and value is not None
        }
        self.token_id = find_token_id(self)
        return EnsureRequest(
            identity=build_identity(self.identity_source, self.user.name),
            server_name=self.name,
            options=dict(self.user_options or {}),
            environment=environment,
            arguments=list(self.get_args()),
            base_url=self.server.base_url,
            api_token=self.api_token,
            token_id=self.token_id,
        )

    async def _ensure(self, request: EnsureRequest) -> EnsureAnswer:
        # Ensuring twice makes nothing twice, so an answer that got lost is asked for again.
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + ENSURE_PATIENCE, 0.5
        while True:
            try:
                return await self.client.ensure(request)
            except ClusterUnavailable as error:
                if error.reason != "connector_unavailable" or loop.time() + pause > deadline:
                    raise
                self.log.warning("%s: %s; trying again", self._log_name, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _record(self, answer: EnsureAnswer) -> None:
        if answer.api_token is not None:
            kept = answer.api_token.get_secret_value()
            if kept != self.api_token:
                forget_token(self, self.api_token)
                self.api_token = kept
                self.token_id = answer.token_id or ""
        view = answer.launch
        self.launch_id = view.id
        self.edge_ip, self.edge_port = view.edge.ip, view.edge.port
        self._notice(view)
        if self.server is not None:
            self.server.ip, self.server.port = self.edge_ip, self.edge_port
        self.orm_spawner.state = self.get_state()
        session_of(self).commit()

    async def _watch(self, launch_id: str) -> AsyncGenerator[LaunchView, None]:
        # Ends after a view that has ended; a connector that is away is waited for, however long.
        pause = 0.25
        while True:
            try:
                async with aclosing(self.client.events(launch_id)) as views:
                    async for view in views:
                        pause = 0.25
                        self._notice(view)
                        yield view
                        if view.state is LaunchState.ENDED:
                            return
            except GatewayError as error:
                if isinstance(error, RequestRejected):
                    raise
                self.log.warning("%s: %s; asking again", self._log_name, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _wait_for_connector(self) -> None:
        pause = 0.25
        while True:
            try:
                self._notice(await self.client.launch(self.launch_id))
            except RequestRejected:
                return
            except GatewayError as error:
                self.log.warning("%s: %s; asking again", self._log_name, error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _notice(self, view: LaunchView) -> None:
        self.view = view
        if view.job_id:
            self.job_id = view.job_id
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _asked_by(self) -> str | None:
        if self.asked_by is not None:
            return self.asked_by
        # Handlers set this future (stop_single_user) only where a person or a service asked:
        # stop or delete of a server, deletion of a user. The hub's own tidying calls user.stop().
        if getattr(self, "_stop_future", None) is not None:
            return "hub"
        if self.user.name in self.authenticator.blocked_users:
            return "admin"
        return None

    async def _find_launch(self) -> str:
        ensuring = self._ensuring
        if not self.launch_id and ensuring is not None:
            # Asked to stop while the launch was being made: learn which one it is.
            await asyncio.wait([ensuring], timeout=STOP_PATIENCE)
            if ensuring.done() and not _failed(ensuring):
                self._record(ensuring.result())
        return self.launch_id

    async def _tell_stop(self, launch_id: str, by: str) -> LaunchView | None:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + STOP_PATIENCE, 0.5
        while True:
            try:
                return await self.client.stop(launch_id, by)
            except RequestRejected as error:
                self.log.warning("%s: %s", self._log_name, error)
                return None
            except ClusterUnavailable as error:
                if loop.time() + pause > deadline:
                    self.log.error("%s: could not be stopped: %s", self._log_name, error)
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _wait_for_end(self, launch_id: str) -> None:
        try:
            async with asyncio.timeout(END_PATIENCE), aclosing(self._watch(launch_id)) as views:
                async for _view in views:
                    pass
        except TimeoutError:
            self.log.info("%s: launch %s is still ending", self._log_name, launch_id)
        except RequestRejected as error:
            self.log.warning("%s: %s", self._log_name, error)

    def _edge_url(self) -> str:
        return f"http://{self.edge_ip}:{self.edge_port}"


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)

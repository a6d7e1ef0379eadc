"""A stand-in for the connector: speaks its routes and models, and does what a test tells it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.connector.models import (
    AccountChoice,
    ClusterChoices,
    EdgeView,
    EndView,
    EnsureAnswer,
    EnsureRequest,
    EnvironmentChoice,
    GpuChoice,
    LaunchView,
    PartitionChoice,
    ReservationChoice,
    StopRequest,
    TransitionView,
    Words,
)
from gateway.connector.problems import build_not_found, build_problem
from gateway.errors import GatewayError, RequestRejected
from gateway.launch.states import EndReason, LaunchState
from gateway.text import Fixed

_edges = itertools.count(2)


def words(en: str, fr: str | None = None) -> Words:
    return Words(en=en, fr=fr or en)


def build_choices(name: str = "rorqual", title: str = "Rorqual") -> ClusterChoices:
    return ClusterChoices(
        name=name,
        title=words(title),
        cluster_user="alice",
        partitions=[
            PartitionChoice(
                name="short",
                title=words("Short jobs", "Travaux courts"),
                up=True,
                max_walltime="08:00:00",
                default_walltime="01:00:00",
                max_cores=16,
                max_memory="64G",
                free_cores=12,
            ),
            PartitionChoice(
                name="gpu",
                title=words("GPU nodes", "Nœuds GPU"),
                up=True,
                max_walltime="02:00:00",
                default_walltime="01:00:00",
                max_cores=8,
                max_memory="32G",
                free_cores=3,
                gpus=[GpuChoice(kind="a100", max=4, free=1), GpuChoice(kind="t4", max=2, free=2)],
            ),
        ],
        accounts=[AccountChoice(name="physics", default=True), AccountChoice(name="teaching")],
        environments=[
            EnvironmentChoice(name="python", title=words("Python 3.12"), interface="lab"),
            EnvironmentChoice(name="r", title=words("R 4.4"), interface="lab"),
        ],
        reservations=[
            ReservationChoice(name="course", ends_at=datetime.now(UTC), active=True),
        ],
        fetched_at=datetime.now(UTC),
    )


@dataclass
class StandIn:
    """Launches in memory; every request of interest is noted."""

    socket: Path
    launches: dict[str, LaunchView] = field(default_factory=dict)
    ensures: list[EnsureRequest] = field(default_factory=list)
    stops: list[tuple[str, str]] = field(default_factory=list)
    choices: list[ClusterChoices] = field(default_factory=lambda: [build_choices()])
    refusal: GatewayError | None = None
    ensure_delay: float = 0.0
    given_tokens: dict[str, tuple[str, str]] = field(default_factory=dict)
    stop_ends: bool = True
    kernel_state: str | None = None
    kernel_tokens: list[str] = field(default_factory=list)
    on_kernels: Callable[[str], Awaitable[None]] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None
    _edges: dict[str, web.AppRunner] = field(default_factory=dict)

    async def open(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.post("/servers", self._ensure),
                web.get("/launches", self._list),
                web.get("/launches/{id}", self._get),
                web.get("/launches/{id}/events", self._events),
                web.post("/launches/{id}/stop", self._stop),
                web.post("/clusters/choices", self._choices),
                web.post("/clusters/{name}/check", self._check),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()
        for view in self.launches.values():
            if view.state is not LaunchState.ENDED:
                await self._open_edge(view)

    async def close(self) -> None:
        """As when the connector stops: edges go with it, launches stay."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
        for launch_id in list(self._edges):
            await self._edges.pop(launch_id).cleanup()
        self.socket.unlink(missing_ok=True)

    def only(self) -> LaunchView:
        (view,) = self.launches.values()
        return view

    def change(self, launch_id: str, **changes: Any) -> LaunchView:
        now = datetime.now(UTC)
        view = self.launches[launch_id]
        state = changes.get("state", view.state)
        if state is not view.state:
            changes["changed_at"] = now
            line = TransitionView(at=now, state=state, words=changes.get("words", view.words))
            changes["history"] = [*view.history, line]
        self.launches[launch_id] = view.model_copy(update=changes)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return self.launches[launch_id]

    def queue(self, launch_id: str) -> LaunchView:
        return self.change(
            launch_id,
            state=LaunchState.QUEUED,
            job_id="4711",
            native_reason="Resources",
            words=words(
                "Waiting for free cores in the partition short.",
                "En attente de cœurs libres dans la partition short.",
            ),
            estimated_start=datetime.now(UTC) + timedelta(minutes=12),
        )

    def make_ready(self, launch_id: str) -> LaunchView:
        return self.change(
            launch_id,
            state=LaunchState.READY,
            job_id="4711",
            node="c2",
            tunnel_up=True,
            native_reason="",
            words=words("The server can be used.", "Le serveur est utilisable."),
            ends_at=datetime.now(UTC) + timedelta(hours=1),
        )

    def end(
        self,
        launch_id: str,
        reason: EndReason = EndReason.STOPPED,
        said: Words | None = None,
        log_tail: str = "",
    ) -> LaunchView:
        said = said or words("Stopped.", "Arrêté.")
        return self.change(
            launch_id,
            state=LaunchState.ENDED,
            words=said,
            end=EndView(reason=reason, words=said, log_tail=log_tail),
        )

    async def _ensure(self, request: web.Request) -> web.Response:
        body = EnsureRequest.model_validate_json(await request.read())
        if self.ensure_delay:
            await asyncio.sleep(self.ensure_delay)
        if problem := self._find_fault(body):
            return problem
        self.ensures.append(body)
        for view in self.launches.values():
            if (
                view.user == body.identity.name
                and view.server_name == body.server_name
                and view.state not in (LaunchState.ENDED, LaunchState.ENDING)
            ):
                token, token_id = self.given_tokens.get(view.id, (None, None))
                return _answer(
                    EnsureAnswer(launch=view, adopted=True, api_token=token, token_id=token_id)
                )
        number = next(_edges)
        launch_id = f"{number:016x}"
        now = datetime.now(UTC)
        view = LaunchView(
            id=launch_id,
            cluster=str(body.options["cluster"]),
            cluster_title=words("Rorqual"),
            user=body.identity.name,
            server_name=body.server_name,
            cluster_user=body.identity.name,
            state=LaunchState.SUBMITTING,
            words=words("The job is being submitted.", "Le travail est en cours de soumission."),
            edge=EdgeView(ip=f"127.77.{number // 250}.{number % 250 + 1}", port=0),
            options=body.options,
            created_at=now,
            changed_at=now,
        )
        view = await self._open_edge(view)
        self.launches[launch_id] = view
        return _answer(EnsureAnswer(launch=view, adopted=False))

    async def _open_edge(self, view: LaunchView) -> LaunchView:
        async def answer(request: web.Request) -> web.Response:
            if request.path.endswith("/api/kernels") and self.kernel_state:
                self.kernel_tokens.append(request.headers["Authorization"].removeprefix("token "))
                if self.on_kernels is not None:
                    await self.on_kernels(self.kernel_tokens[-1])
                return web.json_response([{"id": "1", "execution_state": self.kernel_state}])
            return web.Response(text=f"the server of {view.user}")

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, view.edge.ip, view.edge.port, reuse_address=True)
        await site.start()
        self._edges[view.id] = runner
        port = runner.addresses[0][1]
        return view.model_copy(update={"edge": EdgeView(ip=view.edge.ip, port=port)})

    async def _list(self, request: web.Request) -> web.Response:
        views = [
            view
            for view in reversed(self.launches.values())
            if request.query.get("user") in (None, view.user)
            and request.query.get("server") in (None, view.server_name)
            and (request.query.get("live") != "true" or view.state is not LaunchState.ENDED)
        ]
        body = ",".join(view.model_dump_json() for view in views)
        return web.Response(text=f"[{body}]", content_type="application/json")

    async def _get(self, request: web.Request) -> web.Response:
        view = self.launches.get(request.match_info["id"])
        return _answer(view) if view else _fault(build_not_found("launch"))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        launch_id = request.match_info["id"]
        if launch_id not in self.launches:
            return _fault(build_not_found("launch"))
        response = web.StreamResponse()
        await response.prepare(request)
        while launch_id in self.launches:
            changed, view = self._changed, self.launches[launch_id]
            try:
                await response.write(view.model_dump_json().encode() + b"\n")
            except ConnectionResetError:
                break
            if view.state is LaunchState.ENDED:
                break
            try:
                async with asyncio.timeout(5):
                    await changed.wait()
            except TimeoutError:
                continue
        return response

    async def _stop(self, request: web.Request) -> web.Response:
        launch_id = request.match_info["id"]
        by = StopRequest.model_validate_json(await request.read()).by
        self.stops.append((launch_id, by))
        if launch_id not in self.launches:
            return _fault(build_not_found("launch"))
        if self.stop_ends:
            return _answer(self.end(launch_id))
        return _answer(self.change(launch_id, state=LaunchState.ENDING, words=words("Ending.")))

    async def _choices(self, _request: web.Request) -> web.Response:
        body = ",".join(each.model_dump_json() for each in self.choices)
        return web.Response(text=f"[{body}]", content_type="application/json")

    async def _check(self, request: web.Request) -> web.Response:
        body = EnsureRequest.model_validate_json(await request.read())
        return self._find_fault(body) or web.json_response({})

    def _find_fault(self, body: EnsureRequest) -> web.Response | None:
        if self.refusal is not None:
            return _fault(self.refusal)
        partition = body.options.get("partition")
        if not isinstance(partition, str) or "\n" in partition or partition == "nope":
            said = Fixed("There is no such partition.", "Cette partition n'existe pas.")
            return _fault(
                RequestRejected(
                    Fixed("The request was refused.", "La demande est refusée."),
                    fields={"partition": said},
                )
            )
        if body.options.get("cores") == 99:
            said = Fixed("At most 16 cores here.", "Au plus 16 cœurs ici.")
            return _fault(
                RequestRejected(
                    Fixed("Something must be changed.", "Un champ est à changer."),
                    fields={"cores": said},
                )
            )
        return None


@asynccontextmanager
async def open_stand_in(socket: Path) -> AsyncIterator[StandIn]:
    stand_in = StandIn(socket)
    await stand_in.open()
    try:
        yield stand_in
    finally:
        await stand_in.close()


def _answer(body: Any) -> web.Response:
    return web.Response(text=body.model_dump_json(), content_type="application/json")


def _fault(error: GatewayError) -> web.Response:
    status, body = build_problem(error)
    return web.json_response(body, status=status)

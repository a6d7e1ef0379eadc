"""What travels between the hub (or the CLI) and the connector: JSON over a unix socket.

The routes; errors are ``{"error": {"kind", "reason", "message": {"en", "fr"}, "detail", "fields",
"log_tail"}}`` with status 400 (RequestRejected), 404 (the same, ``reason`` not_found), 403
(``reason`` forbidden), 502 (ClusterRefused, LaunchFailed), 503 (ClusterUnavailable), 500
(ConfigurationError or a fault of ours); ``kind`` is the class in ``gateway.errors``:

======  =====================================  =======================================
GET     /health                                Health
POST    /servers                               EnsureRequest -> EnsureAnswer
GET     /launches?user=&server=&live=&limit=   list of LaunchView, newest first; ``server=`` absent
                                               means any, empty the default one; at most 500
GET     /launches/{id}                         LaunchView
GET     /launches/{id}/events                  LaunchView as JSON lines, one a change, at least
                                               one every 15 s; ends with an ended launch
POST    /launches/{id}/stop                    StopRequest -> LaunchView
GET     /launches/{id}/log                     {"log": "…"}: the tail of the job's log
POST    /clusters/choices                      IdentityModel -> list of ClusterChoices
POST    /clusters/{name}/check                 EnsureRequest -> {} or an error: validation only
GET     /metrics                               Prometheus text
======  =====================================  =======================================
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr

from gateway.launch.states import EndReason, LaunchState

# Never in repr or logs; in JSON, which travels over the 0600 socket only, in the clear.
Secret = Annotated[
    SecretStr, PlainSerializer(lambda value: value.get_secret_value(), when_used="json")
]


class Message(BaseModel):
    """A frozen JSON body; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Words(Message):
    """A sentence in both languages."""

    en: str
    fr: str


class IdentityModel(Message):
    """Who asks, as the hub knows the person."""

    source: str = Field(max_length=64)
    subject: str = Field(max_length=255)
    name: str = Field(max_length=63, description="the hub's user name")
    claims: dict[str, str | tuple[str, ...]] = Field(default={}, repr=False)


class EnsureRequest(Message):
    """ "Let this server have a live launch": adopts one, or makes one."""

    identity: IdentityModel
    server_name: str = Field(default="", max_length=63, description="empty: the default server")
    options: dict[str, Any] = Field(description="as posted; the connector validates it")
    environment: dict[str, str] = Field(
        default={}, repr=False, description="of the server, without the token"
    )
    arguments: list[str] = Field(default=[], description="of the single-user server")
    base_url: str = Field(default="/", description="such as /user/alice/")
    api_token: Secret | None = None
    token_id: str | None = None


class EdgeView(Message):
    """The launch's loopback address on the hub host."""

    ip: str
    port: int


class TransitionView(Message):
    """One line of a launch's history."""

    at: datetime
    state: LaunchState
    words: Words
    by: str = ""


class EndView(Message):
    """Why a launch ended, and what its owner can do."""

    reason: EndReason
    words: Words
    log_tail: str = ""


class LaunchView(Message):
    """A launch as shown to its owner and to admins; no secrets."""

    id: str
    cluster: str
    cluster_title: Words
    user: str
    server_name: str
    cluster_user: str
    state: LaunchState
    words: Words = Field(description="what is going on, in a sentence")
    native_reason: str = ""
    job_id: str | None = None
    node: str | None = None
    edge: EdgeView
    options: dict[str, Any] = {}
    created_at: datetime
    changed_at: datetime
    estimated_start: datetime | None = None
    ends_at: datetime | None = None
    tunnel_up: bool = False
    tunnel_down_since: datetime | None = None
    end: EndView | None = None
    history: list[TransitionView] = []


class EnsureAnswer(Message):
    """``adopted`` is true when a live launch was there. When its server has already been given a
    token, ``api_token`` is that one (the hub keeps it); else the token of the request counts."""

    launch: LaunchView
    adopted: bool
    api_token: Secret | None = None
    token_id: str | None = None


class StopRequest(Message):
    """Who asks for the end, for the history: a hub user name, ``culler``, ``admin:NAME``."""

    by: str = Field(max_length=80)


class GpuChoice(Message):
    """GPUs of one kind."""

    kind: str | None
    max: int
    free: int


class PartitionChoice(Message):
    """A partition with the limits that hold for this user now (profile and scheduler)."""

    name: str
    title: Words
    up: bool
    max_walltime: str
    default_walltime: str
    max_cores: int
    max_memory: str
    free_cores: int | None = Field(description="null: the scheduler could not be asked")
    gpus: list[GpuChoice] = []


class AccountChoice(Message):
    """An account this user may charge."""

    name: str
    default: bool = False
    qos: list[str] = []


class EnvironmentChoice(Message):
    """A software environment."""

    name: str
    title: Words
    interface: str


class ReservationChoice(Message):
    """A reservation this user may use."""

    name: str
    ends_at: datetime
    active: bool


class ClusterChoices(Message):
    """What one user may choose on one cluster; ``problem`` says why nothing can be started."""

    name: str
    title: Words
    cluster_user: str | None
    problem: Words | None = None
    partitions: list[PartitionChoice] = []
    accounts: list[AccountChoice] = []
    environments: list[EnvironmentChoice] = []
    reservations: list[ReservationChoice] = []
    fetched_at: datetime | None = None


class ClusterHealth(Message):
    """How one cluster answers."""

    name: str
    state: str = Field(description="up, slow or down")
    words: Words
    launches: int


class Health(Message):
    """How the connector is."""

    version: str
    clusters: list[ClusterHealth]

"""What a user posts: one flat model, whichever door it came through.

Grammar only; whether a value is offered to this user here and now is
:mod:`gateway.options.choices`' business.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from gateway.fields import Memory, Name
from gateway.values.resources import format_walltime, parse_walltime


def _parse_walltime(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text such as 8:00:00")
    return parse_walltime(value)


def _blank_is_none(value: Any) -> Any:
    return None if value == "" else value


Walltime = Annotated[
    timedelta, BeforeValidator(_parse_walltime), PlainSerializer(format_walltime, return_type=str)
]
Count = Annotated[int, Field(strict=True)]
OptionalName = Annotated[Name | None, BeforeValidator(_blank_is_none)]


class SpawnOptions(BaseModel):
    """The validated grammar of a request for a server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster: Name
    partition: Name
    environment: Name
    walltime: Walltime
    cores: Annotated[Count, Field(ge=1, le=4096)] = 1
    memory: Memory
    gpus: Annotated[Count, Field(ge=0, le=64)] = 0
    gpu_kind: OptionalName = None
    account: OptionalName = None
    qos: OptionalName = None
    reservation: OptionalName = None
    start_directory: Annotated[
        Annotated[str, Field(max_length=200)] | None, BeforeValidator(_blank_is_none)
    ] = None

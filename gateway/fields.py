"""Pydantic field types that settings, profiles and requests share.

Amounts carry their unit (``8h``, ``20G``); a bare number is refused.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from gateway.values.resources import MemorySize, format_walltime, parse_walltime

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
HOST: Final = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$"


def _parse_duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError(f'write a time with its unit, in quotes, such as "8h"; got {value!r}')
    return parse_walltime(value)


def _parse_memory(value: object) -> MemorySize:
    if isinstance(value, MemorySize):
        return value
    if not isinstance(value, str):
        raise ValueError(f'write an amount of memory with its unit, such as "20G"; got {value!r}')
    return MemorySize.parse(value)


Duration = Annotated[
    timedelta,
    BeforeValidator(_parse_duration),
    PlainSerializer(format_walltime, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["8h", "90m", "1-12:00:00"]}),
]
Memory = Annotated[
    Any,
    BeforeValidator(_parse_memory),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["20G", "512M"]}),
]
Name = Annotated[str, Field(pattern=NAME)]
Host = Annotated[str, Field(pattern=HOST)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]

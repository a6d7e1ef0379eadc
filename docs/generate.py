"""Write what follows from the models: two reference pages and the JSON Schema of a profile.

Run it from anywhere (``python docs/generate.py``) after a change to the models; a test fails while
the files are stale.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path, PurePath
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.fields import Memory
from gateway.profiles.models import ClusterProfile
from gateway.settings import Settings
from gateway.values.resources import format_walltime

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by docs/generate.py from the models; do not edit. -->"

PROFILE_PAGE = f"""\
{NOTE}
# Cluster profile: all keys

One YAML file per cluster, `<name>.yml` in `profiles_directory`. [](../describe-a-cluster.md) walks
through one. Unknown keys are refused; amounts carry their unit (`8h`, `20G`); relative paths are
relative to the directory of the file.

Editors that read JSON Schema can check a profile while it is written: put
`# yaml-language-server: $schema=schema.json` on its first line and
`cluster_profiles/schema.json` beside it.
"""

SETTINGS_PAGE = f"""\
{NOTE}
# Settings: gateway.yml

One file for all processes, by default `/etc/landfall/gateway.yml` (`--config`, or the environment
variable `GATEWAY_SETTINGS`). Unknown keys are refused; durations carry their unit (`3h`); relative
paths are relative to the directory of the file. A change is read at the next start.
"""


def build_files() -> dict[Path, str]:
    """Return the content of every generated file by its path."""
    schema = ClusterProfile.model_json_schema()
    schema["title"] = "Landfall cluster profile"
    return {
        ROOT / "docs/reference/cluster-profile.md": PROFILE_PAGE + build_tables(ClusterProfile),
        ROOT / "docs/reference/settings.md": SETTINGS_PAGE + build_tables(Settings),
        ROOT / "cluster_profiles/schema.json": json.dumps(schema, indent=2) + "\n",
    }


def build_tables(model: type[BaseModel]) -> str:
    """Return one section with a table for ``model`` and each model below it."""
    places: dict[type[BaseModel], list[str]] = {}
    for prefix, found in walk(model, ""):
        places.setdefault(found, []).append(prefix)
    return "".join(_section(prefixes, found) for found, prefixes in places.items())


def walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield ``model`` and what is below it, each with the key under which it stands."""
    yield prefix, model
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        for suffix, below in _models_of(field.annotation):
            yield from walk(below, key + suffix)


def _models_of(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _models_of(arguments[0])
    elif origin in (Union, UnionType):
        for one in arguments:
            kind = _kind_of(one)
            for suffix, model in _models_of(one):
                yield (f" (kind: {kind})" if kind else "") + suffix, model
    elif origin is tuple:
        yield from ((f"[]{suffix}", model) for suffix, model in _models_of(arguments[0]))
    elif origin is dict:
        yield from ((f".<name>{suffix}", model) for suffix, model in _models_of(arguments[1]))


def _kind_of(annotation: Any) -> str:
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return ""
    kind = annotation.model_fields.get("kind")
    values = get_args(kind.annotation) if kind else ()
    return str(values[0]) if len(values) == 1 else ""


def _section(prefixes: list[str], model: type[BaseModel]) -> str:
    title = f"`{prefixes[0]}`" if prefixes[0] else "Top level"
    lines = [f"\n## {title}\n", f"{_about(model)}\n"]
    if prefixes[1:]:
        lines.append(f"The same at {', '.join(f'`{prefix}`' for prefix in prefixes[1:])}.\n")
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        words = field.description or _description_of(name, field.annotation)
        cells = (f"`{name}`", show_type(field.annotation), _show_default(field), words)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").replace("``", "`").split())


def _description_of(name: str, annotation: Any) -> str:
    if name == "kind":
        return "the word that chooses this kind"
    words = " Or: ".join(dict.fromkeys(_about(model) for _, model in _models_of(annotation)))
    if not words:
        raise ValueError(f"the field {name} has no description")
    return words


def show_type(annotation: Any) -> str:
    """Say in a few words what may be written."""
    if annotation is Memory or annotation is get_args(Memory)[0]:
        return "amount of memory"
    simple = {
        str: "text", int: "number", bool: "true, false", timedelta: "duration",
        type(None): "null", Any: "amount of memory",
    }  # fmt: skip
    if annotation in simple:
        return simple[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return show_type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(show_type(one) for one in arguments))
    if origin in (tuple, frozenset):
        return f"list of: {show_type(arguments[0])}"
    if origin is dict:
        return f"keys: {show_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "path"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    raise TypeError(f"{annotation!r} has no words yet")


def _show_default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", None)
        return f"`kind: {kind}`" if kind else "its defaults"
    if isinstance(value, timedelta):
        return f"`{_show_duration(value)}`"
    if isinstance(value, (tuple, frozenset)):
        return f"`[{', '.join(map(str, value))}]`"
    if value in (None, ""):
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _show_duration(value: timedelta) -> str:
    for unit, seconds in (("h", 3600), ("m", 60), ("s", 1)):
        if value.total_seconds() % seconds == 0:
            return f"{int(value.total_seconds()) // seconds}{unit}"
    return format_walltime(value)


def main() -> int:
    """Write the files; with ``--check`` only tell which are stale (exit status 1)."""
    stale = [
        path
        for path, content in build_files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != content
    ]
    for path in stale:
        sys.stdout.write(
            f"{'stale' if '--check' in sys.argv else 'written'}: {path.relative_to(ROOT)}\n"
        )
        if "--check" not in sys.argv:
            path.write_text(build_files()[path], encoding="utf-8")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

"""From YAML files to models; every fault at once, with file, line, column, key and remedy."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gateway.errors import ConfigurationError
from gateway.text import text

M = TypeVar("M", bound=BaseModel)
SIZE_LIMIT: Final = 1024 * 1024
NODE_LIMIT: Final = 50_000
# A private key belongs into a file of its own.
_SECRET_MARKS: Final = ("PRIVATE KEY-----",)


def load_model(path: Path, model: type[M]) -> M:
    """Read one YAML file into ``model``; ``Path`` values become absolute.

    :raises ConfigurationError: ``detail`` has one line per fault, ``file:line:column: key: what``.
    """
    document = _read(path)
    try:
        values = _plain(document)
    except ValueError as error:
        raise faulty(path, [f"{path}: {error}"]) from None
    try:
        return model.model_validate(_anchor_paths(values, path.parent, model))
    except ValidationError as error:
        faults = [_describe(path, document, item, model) for item in error.errors()]
    raise faulty(path, faults)


def _read(path: Path) -> CommentedMap:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            text("{path} cannot be used.", path=str(path)),
            detail=f"cannot read {path}: {error.strerror}",
            reason="file",
        ) from error
    if len(raw) > SIZE_LIMIT:
        raise faulty(path, [f"{path}: is larger than 1 MiB"])
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise faulty(path, [f"{path}: byte {error.start} is not UTF-8"]) from error
    if any(mark in content for mark in _SECRET_MARKS):
        raise faulty(path, [f"{path}: holds a private key; put it into a file of mode 0600"])
    yaml = YAML(typ="rt", pure=True)
    yaml.version = "1.2"
    yaml.allow_duplicate_keys = False
    try:
        documents = list(yaml.load_all(io.StringIO(content)))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        problem = " ".join(str(error.problem or error.context).split())
        raise faulty(path, [f"{path}:{at}: {problem}"]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise faulty(path, [f"{path}: {' '.join(str(error).split())[:300]}"]) from error
    if len(documents) != 1 or not isinstance(documents[0], CommentedMap):
        raise faulty(path, [f"{path}:1:1: must be one document of keys and values"])
    return documents[0]


def _plain(node: Any, budget: list[int] | None = None) -> Any:
    """Plain dicts, lists and scalars; refuses explosions by aliases and tagged values."""
    budget = budget if budget is not None else [NODE_LIMIT]
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError("has too many values (aliases of aliases?)")
    if (tag := getattr(node, "tag", None)) is not None and tag.value is not None:
        raise ValueError(f"tag {tag} is not allowed; write plain values")
    if isinstance(node, Mapping):
        return {str(key): _plain(value, budget) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(item, budget) for item in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return repr(node)


def _anchor_paths(data: Any, base: Path, model: type[BaseModel]) -> Any:
    """Make relative paths relative to the file: values of fields whose type is ``Path``."""
    if not isinstance(data, dict):
        return data
    result = dict(data)
    for name, info in model.model_fields.items():
        if name not in data:
            continue
        value, types = data[name], list(_types_in(info.annotation))
        if Path in types and isinstance(value, str):
            result[name] = str(base / Path(value).expanduser())
        elif Path in types and isinstance(value, list):
            result[name] = [str(base / v) if isinstance(v, str) else v for v in value]
        else:
            for inner in types:
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    result[name] = _anchor_paths(result[name], base, inner)
    return result


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _types_in(inner)


def _describe(path: Path, document: CommentedMap, item: Any, model: type[BaseModel]) -> str:
    loc = [part for part in item["loc"] if not _is_union_tag(part, document, item["loc"])]
    line, column = _position(document, loc)
    key = ".".join(str(part) for part in loc) or "(file)"
    return f"{path}:{line}:{column}: {key}: {_remedy(item, loc, model)}"


def _is_union_tag(part: Any, document: Any, loc: tuple[Any, ...]) -> bool:
    """Pydantic puts the tag of a discriminated union into the location; YAML has no such key."""
    node = document
    for step in loc:
        if step == part and isinstance(node, Mapping) and part not in node:
            return part in {str(v) for v in node.values()}
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            continue
    return False


def _position(document: Any, loc: list[Any]) -> tuple[int, int]:
    node, line, column = document, 1, 1
    for part in loc:
        if isinstance(node, CommentedMap) and part in node:
            at = node.lc.key(part)
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            at = node.lc.item(part)
        else:
            break
        line, column = at[0] + 1, at[1] + 1
        node = node[part]
    return line, column


def _remedy(item: Any, loc: list[Any], model: type[BaseModel]) -> str:
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(loc[-1]), _keys_of(model), n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        return f"unknown key{hint}"
    if kind == "missing":
        return "required, but not there"
    if kind == "string_type":
        return f'must be text; put quotes around it: "{value}"'
    message = str(item["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _keys_of(model: type[BaseModel]) -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(name)
        for inner in _types_in(info.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += _keys_of(inner)
    return keys


def faulty(path: Path, faults: list[str]) -> ConfigurationError:
    """Build the error that lists ``faults`` of one file, a line each."""
    return ConfigurationError(
        text("{path} has faults.", path=str(path)), detail="\n".join(faults), reason="file"
    )

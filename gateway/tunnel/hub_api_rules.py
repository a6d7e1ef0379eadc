"""What a job may ask of the hub; pure.

The requests are those of a single-user server of JupyterHub 6.1 (``jupyterhub/services/auth.py``,
``jupyterhub/singleuser/extension.py``, read in 6.1.1):

======  ============================  ================================================
GET     ``/hub/api`` (or with ``/``)  the hub's version, at start; sent without token
GET     ``/hub/api/user``             who a visitor's token belongs to: any token
POST    ``/hub/api/oauth2/token``     a visitor's OAuth code for a token: own client only
POST    ``/hub/api/users/U/activity`` own user, own server, own token
======  ============================  ================================================

Bodies are parsed, checked and written anew, so that the hub reads what was checked. Only named
headers pass, which leaves out cookies, forwarding and method-override headers.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

BODY_LIMIT: Final = 64 * 1024

# RFC 6750's token characters; JupyterHub reads "token" and "bearer" alike.
_AUTHORIZATION: Final = re.compile(r"(?i:token|bearer) ([A-Za-z0-9._~+/=-]{1,512})", re.ASCII)
_TIMESTAMP: Final = re.compile(r"[0-9T:.Z+ -]{1,64}", re.ASCII)
_OAUTH_FIELDS: Final = frozenset(
    {"client_id", "client_secret", "grant_type", "code", "redirect_uri", "code_verifier"}
)


class Route(StrEnum):
    """The requests that may pass."""

    VERSION = "version"
    USER = "user"
    OAUTH_TOKEN = "oauth_token"  # noqa: S105 - the name of a route
    ACTIVITY = "activity"


@dataclass(frozen=True, slots=True)
class HubApiScope:
    """The slice of one launch: whose server it is, and its OAuth client and token."""

    hub_user: str
    server_name: str
    client_id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of ours: HTTP status and a plain sentence for the server's log."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class MatchedRoute:
    """A route with the path at the hub (beginning with ``/``)."""

    route: Route
    path: str


@dataclass(frozen=True, slots=True)
class Forward:
    """A request as it goes to the hub."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


_FORBIDDEN: Final = Refusal(403, "This server may not use this part of the hub API.")
_BAD_TOKEN: Final = Refusal(403, "This needs the token of this server.")


def match_route(
    method: str, raw_path: str, prefix: str, scope: HubApiScope
) -> MatchedRoute | Refusal:
    """Find the route for a request line; ``raw_path`` is undecoded, with its query.

    The comparison is by whole, undecoded strings, so that no encoding, dot segment, double slash,
    parameter, query or absolute form can mean another path to the hub than it means here.
    """
    user = quote(scope.hub_user, safe="@~")
    routes = {
        ("GET", prefix): Route.VERSION,
        ("GET", f"{prefix}/"): Route.VERSION,
        ("GET", f"{prefix}/user"): Route.USER,
        ("POST", f"{prefix}/oauth2/token"): Route.OAUTH_TOKEN,
        ("POST", f"{prefix}/users/{user}/activity"): Route.ACTIVITY,
    }
    route = routes.get((method, raw_path))
    return _FORBIDDEN if route is None else MatchedRoute(route, raw_path)


def check_request(
    matched: MatchedRoute,
    *,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    scope: HubApiScope,
) -> Forward | Refusal:
    """Check headers and body of a matched request; return what goes to the hub instead."""
    token = _parse_authorization(headers)
    if isinstance(token, Refusal):
        return token
    match matched.route:
        case Route.VERSION:
            return _check_empty(matched, body, None)
        case Route.USER:
            if token is None:
                return Refusal(403, "A token is needed.")
            return _check_empty(matched, body, token)
        case Route.OAUTH_TOKEN:
            if token is not None and not _is_own(token, scope):
                return _BAD_TOKEN
            fields = _parse_oauth(headers, body, scope)
            if isinstance(fields, Refusal):
                return fields
            form = urlencode(fields).encode("ascii")
            return _build_post(matched.path, "application/x-www-form-urlencoded", form, scope)
        case Route.ACTIVITY:
            if token is None or not _is_own(token, scope):
                return _BAD_TOKEN
            activity = _parse_activity(headers, body, scope)
            if isinstance(activity, Refusal):
                return activity
            data = json.dumps(activity).encode("ascii")
            return _build_post(matched.path, "application/json", data, scope)


def _parse_authorization(headers: Sequence[tuple[str, str]]) -> str | Refusal | None:
    values = [value for name, value in headers if name.lower() == "authorization"]
    if not values:
        return None
    if len(values) > 1:
        return Refusal(400, "More than one Authorization header.")
    match = _AUTHORIZATION.fullmatch(values[0])
    return match[1] if match else Refusal(403, "The Authorization header is not a token.")


def _is_own(token: str, scope: HubApiScope) -> bool:
    # An empty scope token must never match.
    return bool(scope.token) and hmac.compare_digest(token.encode(), scope.token.encode())


def _check_empty(matched: MatchedRoute, body: bytes, token: str | None) -> Forward | Refusal:
    if body:
        return Refusal(400, "This request has no body.")
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if token is not None:
        headers["Authorization"] = f"token {token}"
    return Forward("GET", matched.path, headers)


def _build_post(path: str, content_type: str, body: bytes, scope: HubApiScope) -> Forward:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Authorization": f"token {scope.token}",
        "Content-Type": content_type,
    }
    return Forward("POST", path, headers, body)


def _content_type(headers: Sequence[tuple[str, str]]) -> str:
    values = [value for name, value in headers if name.lower() == "content-type"]
    return values[0].split(";")[0].strip().lower() if len(values) == 1 else ""


def _parse_oauth(
    headers: Sequence[tuple[str, str]], body: bytes, scope: HubApiScope
) -> dict[str, str] | Refusal:
    bad = Refusal(400, "The token request could not be understood.")
    if _content_type(headers) != "application/x-www-form-urlencoded":
        return bad
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=16,
        )
    except ValueError:
        return bad
    fields = dict(pairs)
    if len(fields) != len(pairs) or not fields.keys() <= _OAUTH_FIELDS:
        return bad
    if fields.get("grant_type") != "authorization_code":
        return bad
    if fields.get("client_id") != scope.client_id:
        return Refusal(403, "This is not the OAuth client of this server.")
    if not _is_own(fields.get("client_secret", ""), scope):
        return _BAD_TOKEN
    return fields


def _parse_activity(
    headers: Sequence[tuple[str, str]], body: bytes, scope: HubApiScope
) -> dict[str, Any] | Refusal:
    bad = Refusal(400, "The activity report could not be understood.")
    if _content_type(headers) != "application/json":
        return bad
    try:
        report = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return bad
    if not isinstance(report, dict) or not report.keys() <= {"servers", "last_activity"}:
        return bad
    checked: dict[str, Any] = {}
    if (when := report.get("last_activity")) is not None:
        if not _is_timestamp(when):
            return bad
        checked["last_activity"] = when
    if (servers := report.get("servers")) is not None:
        if not isinstance(servers, dict):
            return bad
        if not servers.keys() <= {scope.server_name}:
            return Refusal(403, "This server may report only its own activity.")
        for name, server in servers.items():
            if not isinstance(server, dict) or server.keys() != {"last_activity"}:
                return bad
            if not _is_timestamp(server["last_activity"]):
                return bad
            checked["servers"] = {name: {"last_activity": server["last_activity"]}}
    return checked or bad


def _is_timestamp(value: object) -> bool:
    return isinstance(value, str) and _TIMESTAMP.fullmatch(value) is not None

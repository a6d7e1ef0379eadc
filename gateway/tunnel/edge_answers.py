"""What the edge itself answers while there is no tunnel; pure.

The answer comes before any sign-in, so it names no user, job or reason: only a link to the
launch page, which asks for one.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Final

from gateway.text import LANGUAGES, Language, text

HEAD_LIMIT: Final = 16 * 1024
RETRY_AFTER: Final = 5
"""Seconds."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)  # RFC 9110, 5.6.2
_STYLE: Final = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem;"
    "color:#1b1b1b;background:#fff}a{color:#0b5394}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#1b1b1b}a{color:#9cc9ff}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_TITLE: Final = text("Reconnecting to your session")
_BODY: Final = text(
    "The connection to your session is being made again. This page tries every few seconds; "
    "what runs in your session goes on."
)
_LINK: Final = text("Show the state of this session")
_BRIEF: Final = text("The connection to this session is being made again; try again shortly.")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line and headers; names are lower case, repeated ones joined with a comma."""

    method: str
    target: str
    headers: Mapping[str, str]


def parse_request_head(data: bytes) -> RequestHead | None:
    """Parse the head of an HTTP/1 request, up to its empty line; ``None`` when it is not one."""
    lines = data.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not _TOKEN.fullmatch(parts[0]):
        return None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        if not line:
            break
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            return None
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return RequestHead(parts[0], parts[1], headers)


def parse_language(accept_language: str) -> Language:
    """Choose a language of ours by ``Accept-Language`` (RFC 9110, 12.5.4); English by default."""
    best: Language = "en"
    best_weight = 0.0
    for item in accept_language[:500].split(","):
        tag, _, parameter = item.strip().partition(";")
        match = re.fullmatch(r"\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*", parameter, re.ASCII)
        weight = float(match[1]) if match else 0.0 if parameter else 1.0
        for language in LANGUAGES:
            if tag.strip().lower().split("-")[0] == language and weight > best_weight:
                best, best_weight = language, weight
    return best


def build_answer(head: RequestHead | None, *, base_url: str, launch_page: str) -> bytes:
    """Build the whole HTTP/1.1 answer: the probe's 200, the page, or a 503 in JSON.

    JupyterHub's probe is a ``GET <base_url>api`` without cookie (``jupyterhub/utils.py``,
    ``wait_for_http_server``, 6.1.1); anything below 500 means to it that the server is there.
    """
    if head is None:
        return _render(400, "application/json", json.dumps({"message": "Bad request."}), {})
    path = head.target.split("?")[0]
    if head.method == "GET" and path == f"{base_url}api" and "cookie" not in head.headers:
        return _render(200, "application/json", json.dumps({"version": _hub_version()}), {})
    language = parse_language(head.headers.get("accept-language", ""))
    retry = {"Retry-After": str(RETRY_AFTER), "Vary": "Accept, Accept-Language"}
    if _is_navigation(head):
        page = render_page(language, launch_page)
        retry |= {"Content-Language": language, "Content-Security-Policy": _POLICY}
        answer = _render(503, "text/html; charset=utf-8", page, retry)
    else:
        body = json.dumps({"message": _BRIEF.render(language), "reason": "reconnecting"})
        answer = _render(503, "application/json", body, retry)
    return answer[: answer.index(b"\r\n\r\n") + 4] if head.method == "HEAD" else answer


def render_page(language: Language, launch_page: str) -> str:
    """Return the "reconnecting" page."""
    title = html.escape(_TITLE.render(language))
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="refresh" content="{RETRY_AFTER}">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f'<p role="status">{html.escape(_BODY.render(language))}</p>\n'
        f'<p><a href="{html.escape(launch_page)}">{html.escape(_LINK.render(language))}</a></p>\n'
        "</main>\n</body>\n</html>\n"
    )


def _is_navigation(head: RequestHead) -> bool:
    if head.method not in ("GET", "HEAD") or "upgrade" in head.headers:
        return False
    if head.headers.get("x-requested-with", "").lower() == "xmlhttprequest":
        return False
    if head.headers.get("sec-fetch-mode", "navigate") != "navigate":
        return False
    return "text/html" in head.headers.get("accept", "")


_REASONS: Final = {200: "OK", 400: "Bad Request", 503: "Service Unavailable"}


def _render(status: int, content_type: str, body: str, headers: Mapping[str, str]) -> bytes:
    data = body.encode("utf-8")
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(data)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
        f"X-JupyterHub-Version: {_hub_version()}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


@cache
def _hub_version() -> str:
    return version("jupyterhub")

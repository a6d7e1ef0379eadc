"""Errors as JSON, and back: one shape for every route.

Pure; used by both ends of the socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway import errors
from gateway.errors import GatewayError, LaunchFailed, RequestRejected
from gateway.text import Fixed, Words, text

NOT_FOUND: Final = "not_found"
FORBIDDEN: Final = "forbidden"

_KINDS: Final[dict[str, type[GatewayError]]] = {
    kind.__name__: kind
    for kind in (
        errors.GatewayError,
        errors.ConfigurationError,
        errors.RequestRejected,
        errors.ClusterUnavailable,
        errors.SubmitAmbiguous,
        errors.NotAnnounced,
        errors.ClusterRefused,
        errors.LaunchFailed,
    )
}
_STATUS: Final[tuple[tuple[type[GatewayError], int], ...]] = (
    (errors.RequestRejected, 400),
    (errors.ClusterUnavailable, 503),
    (errors.ClusterRefused, 502),
    (errors.LaunchFailed, 502),
)
_STATUS_BY_REASON: Final = {NOT_FOUND: 404, FORBIDDEN: 403}
_LONGEST: Final = 4000


def build_not_found(what: str) -> RequestRejected:
    """Return the error for something that does not exist; ``what`` is shown."""
    return RequestRejected(text("There is no {what}.", what=what[:80]), reason=NOT_FOUND)


def build_problem(error: GatewayError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the JSON body for ``error``."""
    # A subclass of ours that the other end does not know travels as the nearest one it does.
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
    body: dict[str, Any] = {
        "kind": kind,
        "reason": error.reason,
        "message": _words_dict(error.user_message),
        "detail": error.detail[:_LONGEST],
        "fields": {},
        "log_tail": "",
    }
    if isinstance(error, RequestRejected):
        body["fields"] = {name: _words_dict(words) for name, words in error.fields.items()}
    if isinstance(error, LaunchFailed):
        body["log_tail"] = error.log_tail
    status = 500
    if isinstance(error, RequestRejected):
        status = _STATUS_BY_REASON.get(error.reason, 400)
    else:
        status = next((code for kinds, code in _STATUS if isinstance(error, kinds)), 500)
    return status, {"error": body}


def parse_problem(status: int, body: object) -> GatewayError:
    """Rebuild the error from an answer; anything not understood is a plain ``GatewayError``."""
    problem = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(problem, Mapping):
        return GatewayError(
            text("The gateway's connector answered in a way that was not understood."),
            detail=f"status {status}",
            reason="connector_fault",
        )
    kind = _KINDS.get(str(problem.get("kind")), GatewayError)
    message = _parse_words(problem.get("message"))
    detail, reason = str(problem.get("detail", "")), str(problem.get("reason", ""))
    fields = problem.get("fields")
    if issubclass(kind, RequestRejected):
        return kind(
            message,
            detail=detail,
            reason=reason,
            fields={str(name): _parse_words(words) for name, words in fields.items()}
            if isinstance(fields, Mapping)
            else None,
        )
    if issubclass(kind, LaunchFailed):
        return kind(
            message, detail=detail, reason=reason, log_tail=str(problem.get("log_tail", ""))
        )
    return kind(message, detail=detail, reason=reason)


def _words_dict(words: Words) -> dict[str, str]:
    return {name: value[:_LONGEST] for name, value in words.as_dict().items()}


def _parse_words(value: object) -> Words:
    if isinstance(value, Mapping):
        english = str(value.get("en", ""))
        return Fixed(english, str(value.get("fr", english)))
    return Fixed(str(value), str(value))

"""The exception tree; its first level says who must act.

::

    GatewayError
    ├── ConfigurationError     the admin must fix it
    ├── RequestRejected        the user must change it (the scheduler's own words shown)
    ├── ClusterUnavailable     wait; we keep trying
    │   ├── SubmitAmbiguous    the job may exist: look for it by name before anything else
    │   └── NotAnnounced       the node answered; the agent has not announced itself yet
    ├── ClusterRefused         somebody must look (host key, certificate, output not understood)
    └── LaunchFailed           the job ended too early (with the tail of its log)

Nothing above a seam catches anything but :class:`GatewayError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gateway.text import Words


class GatewayError(Exception):
    """Base of everything this package raises on purpose.

    ``user_message`` is fit to be shown to a person; ``detail`` is for admins (never a secret);
    ``reason`` is a short stable code, used as a metric label and in the JSON API.
    """

    transient: ClassVar[bool] = False
    default_reason: ClassVar[str] = "error"

    def __init__(self, user_message: Words, *, detail: str = "", reason: str = "") -> None:
        super().__init__(user_message.render())
        self.user_message = user_message
        self.detail = detail
        self.reason = reason or self.default_reason

    def __str__(self) -> str:
        message = self.user_message.render()
        return f"{message} ({self.detail})" if self.detail else message


class ConfigurationError(GatewayError):
    """An admin must change a file or a setting."""

    default_reason = "configuration"


class RequestRejected(GatewayError):
    """The user must change what was asked for.

    ``fields`` maps a field name to what is wrong with it, when the fault lies in single fields.
    """

    default_reason = "rejected"

    def __init__(
        self,
        user_message: Words,
        *,
        detail: str = "",
        reason: str = "",
        fields: Mapping[str, Words] | None = None,
    ) -> None:
        super().__init__(user_message, detail=detail, reason=reason)
        self.fields = dict(fields or {})


class ClusterUnavailable(GatewayError):
    """The cluster could not be asked; nothing is known to be wrong with the request."""

    transient = True
    default_reason = "cluster_unavailable"


class SubmitAmbiguous(ClusterUnavailable):
    """The submit command failed or was cut off, yet the job may have been created."""

    default_reason = "submit_ambiguous"


class NotAnnounced(ClusterUnavailable):
    """We looked, and the agent of the job has not announced itself (or a former run's file lies
    there). Only this, never another ``ClusterUnavailable``, counts towards a start deadline."""

    default_reason = "not_announced"


class ClusterRefused(GatewayError):
    """The cluster answered in a way that a person must look at."""

    default_reason = "cluster_refused"


class LaunchFailed(GatewayError):
    """The job ended, or never became usable; ``log_tail`` is the end of its log, if readable."""

    default_reason = "launch_failed"

    def __init__(
        self, user_message: Words, *, detail: str = "", reason: str = "", log_tail: str = ""
    ) -> None:
        super().__init__(user_message, detail=detail, reason=reason)
        self.log_tail = log_tail

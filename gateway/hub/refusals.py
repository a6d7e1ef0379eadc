"""The gateway's errors as JupyterHub's."""

from __future__ import annotations

from jupyterhub.spawner import SpawnException

from gateway.connector.models import LaunchView, Words
from gateway.errors import GatewayError, RequestRejected
from gateway.text import Language


class LaunchRefused(SpawnException):
    """A refusal or a failure, in the words of :class:`~gateway.errors.GatewayError`.

    ``error`` is the original; ``jupyterhub_message`` is what JupyterHub shows.
    """

    def __init__(self, error: GatewayError, language: Language, *, status_code: int) -> None:
        words = error.user_message.render(language)
        if isinstance(error, RequestRejected) and error.fields:
            faults = (f"{name}: {fault.render(language)}" for name, fault in error.fields.items())
            words = f"{words} ({'; '.join(faults)})"
        super().__init__(
            words, reason=error.reason, log_message=str(error), status_code=status_code
        )
        self.error = error
        self.jupyterhub_message = words


class LaunchEnded(SpawnException):
    """The launch ended before its server was usable."""

    def __init__(self, view: LaunchView, language: Language) -> None:
        end = view.end
        words = render_words(end.words if end else view.words, language)
        reason = end.reason.value if end else "ended"
        super().__init__(
            words, reason=reason, log_message=f"launch {view.id}: {words}", status_code=502
        )
        self.jupyterhub_message = words


def render_words(words: Words, language: Language) -> str:
    """Return the connector's sentence in ``language``."""
    return words.fr if language == "fr" else words.en

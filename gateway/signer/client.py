"""Asks the signer for certificates."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, GatewayError
from gateway.text import Fixed, text

TIMEOUT_SECONDS: Final = 10.0
_ANSWER_LIMIT: Final = 16 * 1024
_KINDS: Final[dict[str, type[GatewayError]]] = {
    "refused": ClusterRefused,
    "configuration": ConfigurationError,
    "busy": ClusterUnavailable,
}


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    en: str
    fr: str


class _Error(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    reason: str
    message: _Message
    detail: str


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    certificate: str | None = None
    error: _Error | None = None


class SignerClient:
    """The signer at the unix socket ``socket``; one connection a request."""

    def __init__(self, socket: Path, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._socket = socket
        self._timeout = timeout_seconds

    async def sign(
        self, *, public_key: str, cluster: str, role: str, principal: str, forwarding: bool
    ) -> str:
        """Return an OpenSSH certificate line for ``public_key`` (an ed25519 one-line key).

        :raises ClusterRefused: the policy says no.
        :raises ClusterUnavailable: the signer does not answer, or has too much to do.
        :raises ConfigurationError: its files need an admin, or we may not use its socket.
        """
        request = {
            "public_key": public_key,
            "cluster": cluster,
            "role": role,
            "principal": principal,
            "forwarding": forwarding,
        }
        line = await self._exchange(json.dumps(request).encode() + b"\n")
        try:
            answer = _Answer.model_validate_json(line)
        except ValidationError as exc:
            raise _not_understood() from exc
        if answer.error is not None:
            error = answer.error
            kind = _KINDS.get(error.kind, ClusterRefused)
            words = Fixed(error.message.en, error.message.fr)
            raise kind(words, detail=error.detail, reason=error.reason)
        if answer.certificate is None:
            raise _not_understood()
        return answer.certificate

    async def _exchange(self, line: bytes) -> bytes:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_unix_connection(
                    str(self._socket), limit=_ANSWER_LIMIT
                )
                writer.write(line)
                await writer.drain()
                return await reader.readline()
        except PermissionError as exc:
            raise ConfigurationError(
                text("The gateway may not use the signer's socket {path}.", path=str(self._socket)),
                detail=str(exc),
                reason="signer_socket",
            ) from exc
        except (OSError, TimeoutError) as exc:
            raise ClusterUnavailable(
                text("The gateway's signer does not answer, so no one can sign in to clusters."),
                detail=f"{type(exc).__name__}: {exc}",
                reason="signer_unavailable",
            ) from exc
        except ValueError as exc:
            raise _not_understood() from exc
        finally:
            if writer is not None:
                writer.close()


def _not_understood() -> ClusterUnavailable:
    return ClusterUnavailable(
        text("The gateway's signer gave no answer that can be understood."),
        reason="signer_unavailable",
    )

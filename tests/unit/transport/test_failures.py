"""Every failure of SSH has words."""

from __future__ import annotations

import asyncio
import socket

import asyncssh
import pytest

from gateway.errors import ClusterRefused, ClusterUnavailable, ConfigurationError, GatewayError
from gateway.text import text
from gateway.transport import failures
from gateway.transport.failures import FAILURES, build_error_from, find_failure, ssh_failures

WHERE = text("login node {host}", host="login1")
EXCEPTIONS = sorted(
    (
        value
        for value in vars(asyncssh).values()
        if isinstance(value, type) and issubclass(value, BaseException)
    ),
    key=lambda c: c.__name__,
)


def test_asyncssh_has_exceptions() -> None:
    assert len(EXCEPTIONS) > 50


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda c: c.__name__)
def test_each_exception_of_asyncssh_is_mapped(kind: type[BaseException]) -> None:
    too_general = {asyncssh.Error, Exception, BaseException, ValueError, OSError}
    nearest = next((base for base in kind.__mro__ if base in FAILURES), None)
    assert nearest is not None, "map it in gateway/transport/failures.py"
    assert kind is asyncssh.Error or nearest not in too_general


def channel(code: int) -> asyncssh.ChannelOpenError:
    return asyncssh.ChannelOpenError(code, "no")


@pytest.mark.parametrize(
    ("exc", "kind", "reason"),
    [
        (asyncssh.PermissionDenied("x"), ClusterRefused, "sign_in"),
        (asyncssh.HostKeyNotVerifiable("x"), ClusterRefused, "host_key"),
        (asyncssh.KeyExchangeFailed("x"), ClusterRefused, "no_common_algorithm"),
        (asyncssh.ProtocolError("x"), ClusterRefused, "protocol"),
        (asyncssh.ProtocolError("Too many authentication failures"), ClusterRefused, "sign_in"),
        (asyncssh.ConnectionLost("x"), ClusterUnavailable, "connection_lost"),
        (asyncssh.DisconnectError(11, "bye"), ClusterUnavailable, "disconnected"),
        (asyncssh.SFTPNoSuchFile("x"), ClusterRefused, "remote_file"),
        (asyncssh.SFTPConnectionLost("x"), ClusterUnavailable, "connection_lost"),
        (channel(1), ClusterRefused, "forwarding_prohibited"),
        (channel(2), ClusterUnavailable, "connect_failed"),
        (channel(3), ClusterRefused, "unsupported"),
        (channel(4), ClusterUnavailable, "too_many_sessions"),
        (channel(0xFFFFFFFF), ClusterRefused, "session_refused"),
        (channel(77), ClusterUnavailable, "connect_failed"),
        (asyncssh.ChannelListenError("x"), ClusterRefused, "listener_refused"),
        (TimeoutError(), ClusterUnavailable, "timeout"),
        (ConnectionRefusedError(), ClusterUnavailable, "connection_refused"),
        (ConnectionResetError(), ClusterUnavailable, "connection_lost"),
        (BrokenPipeError(), ClusterUnavailable, "connection_lost"),
        (socket.gaierror(-2, "unknown"), ClusterUnavailable, "name_unknown"),
        (OSError(113, "no route"), ClusterUnavailable, "unreachable"),
        (asyncio.IncompleteReadError(b"", 1), ClusterUnavailable, "connection_lost"),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else None,
)
def test_meaning(exc: Exception, kind: type[GatewayError], reason: str) -> None:
    with pytest.raises(GatewayError) as caught, ssh_failures(WHERE):
        raise exc
    error = caught.value
    assert type(error) is kind
    assert error.reason == reason
    assert error.__cause__ is exc
    assert "login node login1" in error.user_message.render("en")
    assert "login1" in error.user_message.render("fr")
    assert error.user_message.render("fr") != error.user_message.render("en")


@pytest.mark.parametrize(
    "exc", [KeyError("x"), asyncio.CancelledError(), ConfigurationError(text("mine"))]
)
def test_other_exceptions_pass(exc: BaseException) -> None:
    assert find_failure(exc) is None
    with pytest.raises(type(exc)) as caught, ssh_failures(WHERE):
        raise exc
    assert caught.value is exc


def test_nothing_happens_without_a_failure() -> None:
    with ssh_failures(WHERE):
        pass


def test_detail_is_printable_and_short() -> None:
    error = build_error_from(asyncssh.ConnectionLost("a\x1b[31m\nb" + "x" * 1000), WHERE)
    assert error is not None
    assert error.detail.isprintable()
    assert len(error.detail) == 400
    assert error.detail.startswith("ConnectionLost: a [31m b")


def test_every_template_has_french_words() -> None:
    for failure in {
        id(f): f for f in (*FAILURES.values(), failures.SECOND_FACTOR, failures.DROPPED)
    }.values():
        assert failure.template.template.count("{where}") == 1
        french = text(failure.template.template, where="X").render("fr")
        assert french != text(failure.template.template, where="X").render("en")

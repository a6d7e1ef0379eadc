"""Opening a connection from a process of any account, with whatever the profile holds."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gateway.errors import ClusterRefused
from gateway.text import text
from gateway.transport.connecting import open_connection

UNKNOWN_UID = 47111
WHERE = text("login node x")

PROGRAM = """
import asyncio, socket, asyncssh
from gateway.errors import GatewayError
from gateway.text import text
from gateway.transport.connecting import open_connection

async def main():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and not listening
        try:
            await open_connection("127.0.0.1", nobody.getsockname()[1], text("login node x"),
                                  user="alice", keys=[], timeout=10,
                                  known_hosts=asyncssh.import_known_hosts(""))
        except GatewayError as error:
            print(error.reason)

asyncio.run(main())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take another uid")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("environment", [{}, {"HOME": "/nonexistent"}])
async def test_an_account_without_a_name(environment: dict[str, str]) -> None:
    """It gets as far as the network."""
    drop = ["--reuid", str(UNKNOWN_UID), "--regid", str(UNKNOWN_UID), "--clear-groups"]
    process = await asyncio.create_subprocess_exec(
        *("setpriv", *drop, "--inh-caps=-all", sys.executable, "-c", PROGRAM),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert stdout.decode().split() == ["connection_refused"], stderr.decode()


@pytest.mark.parametrize("fault", [ValueError("Unknown local username"), TypeError("no"), None])
async def test_what_asyncssh_says_of_its_options_stays_below_the_seam(
    monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    host = "127.0.0.1"
    if fault is None:
        host = "a" * 64 + ".example.org"  # a label too long for a name (RFC 1035, 2.3.4)
    else:
        monkeypatch.setattr(asyncssh, "connect", raising(fault))
    with pytest.raises(ClusterRefused) as caught:
        await open_connection(
            host,
            22,
            WHERE,
            user="alice",
            keys=[],
            known_hosts=asyncssh.import_known_hosts(""),
            timeout=5,
        )
    assert caught.value.reason == "ssh_options"
    assert "login node x" in str(caught.value)
    assert caught.value.detail
    if fault is not None:
        assert str(fault) in caught.value.detail


async def test_a_key_that_asyncssh_refuses_keeps_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asyncssh, "connect", raising(asyncssh.KeyImportError("not a key")))
    with pytest.raises(ClusterRefused) as caught:
        await open_connection(
            "127.0.0.1",
            22,
            WHERE,
            user="alice",
            keys=[],
            known_hosts=asyncssh.import_known_hosts(""),
            timeout=5,
        )
    assert caught.value.reason == "credential"


def raising(fault: Exception) -> Callable[..., Any]:
    async def connect(*_: Any, **__: Any) -> None:
        raise fault

    return connect

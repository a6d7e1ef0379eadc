"""The command line as a person meets it: processes, their words and their exit status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from gateway.cli.main import _COMMANDS, main

from .site import Site, write
from .test_doctor import replace_program


async def start(*words: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """``gateway WORDS`` with pipes."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
    )


async def run(*words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    process = await start(*words, env=env)
    out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    return process.returncode, out.decode(), err.decode()


def settings(directory: Path) -> Path:
    """A gateway.yml of whose processes none runs."""
    path = directory / "gateway.yml"
    keys = ("state_directory", "runtime_directory", "profiles_directory")
    write(path, dict.fromkeys(keys, "x") | {"sign_in": {"kind": "pam"}})
    return path


@pytest.mark.parametrize(
    "words", [("launches", "list"), ("connector",), ("signer",), ("doctor", "rehearsal")]
)
async def test_no_settings_file(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "nowhere.yml"
    status, out, err = await run(*words, "--config", str(path))
    assert status == 78
    assert f"cannot read {path}: No such file" in out + err


async def test_a_busy_port_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        status, out, err = await run("up", "--rehearsal", "--port", str(port))
    assert status == 78
    assert out == ""
    assert f"Port {port} of this machine is busy; choose another with --port" in err
    assert "make demo PORT=" in err


async def test_an_unknown_command_suggests_the_nearest() -> None:
    status, _, err = await run("docter")
    assert status == 2
    assert "Did you mean 'doctor'?" in err


async def test_the_help_tells_of_completion() -> None:
    status, out, _ = await run("--help")
    assert status == 0
    assert 'eval "$(_GATEWAY_COMPLETE=bash_source gateway)"' in out


def test_the_list_of_commands_is_true() -> None:
    for name, (_, words) in _COMMANDS.items():
        command = main.commands[name]
        assert command.name == name
        assert command.help is not None
        assert command.help.startswith(words)


async def test_completion() -> None:
    variables = {
        "_GATEWAY_COMPLETE": "bash_complete",
        "COMP_WORDS": "gateway do",
        "COMP_CWORD": "1",
    }
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("gateway")),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
    )
    out, _ = await process.communicate()
    assert "plain,doctor" in out.decode()


async def test_launches_without_a_connector(tmp_path: Path) -> None:
    path = settings(tmp_path)
    status, _, err = await run("launches", "list", "--config", str(path))
    assert status == 1
    assert f"does not answer at {tmp_path / 'x' / 'connector.sock'}" in err
    assert f"gateway connector --config {path}" in err


async def test_french(tmp_path: Path) -> None:
    path = settings(tmp_path)
    _, _, err = await run("launches", "list", "--config", str(path), env={"LC_ALL": "fr_FR.UTF-8"})
    assert "Le connecteur ne répond pas" in err


async def test_doctor_as_json(site: Site) -> None:
    status, out, err = await run("doctor", "rehearsal", "--config", str(site.settings), "--json")
    assert status == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0]["station"] == "settings"
    assert {line["outcome"] for line in lines} == {"ok", "skipped"}
    assert lines[0]["words"]["fr"] != lines[0]["words"]["en"]


async def test_doctor_in_plain_words(site: Site) -> None:
    site.allow(observer=[])
    status, out, _ = await run("doctor", "rehearsal", "--config", str(site.settings))
    assert status == 1
    lines = out.splitlines()
    assert any(line.startswith("ok ") and "settings and profile" in line for line in lines)
    assert any(line.startswith("FAIL ") and "signer, observer observer" in line for line in lines)
    assert any(
        line.startswith("skipped ") and "because of: signer, observer observer" in line
        for line in lines
    )
    assert any(line.startswith(" " * 18 + "-> ") for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_removes_the_test_job(site: Site, number: signal.Signals) -> None:
    # So that the job is there for long enough.
    replace_program(site, "alice", "squeue", 'sleep 0.5; exec {real} "$@"')
    process = await start("doctor", "rehearsal", "--user", "alice", "--config", str(site.settings))
    assert process.stdout is not None
    said = b""
    while b"test job submitted" not in said:
        line = await process.stdout.readline()
        assert line, said
        said += line
    assert site.leftovers()
    process.send_signal(number)
    await asyncio.sleep(0.1)
    process.send_signal(number)  # changes nothing
    out, err = await process.communicate()
    assert process.returncode == 128 + number
    assert b"test job removed" in out
    assert b"the test job is being removed" in err
    assert b"Traceback" not in err
    assert site.leftovers() == []


async def test_a_closed_pipe_is_no_fault(site: Site) -> None:
    line = (
        f"{sys.executable} -m gateway doctor rehearsal --user alice --config {site.settings}"
        " | head -n 1; echo ${PIPESTATUS[0]}"
    )
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        line,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert err == b""
    assert out.splitlines()[-1] == b"1"
    assert site.leftovers() == []


@pytest.mark.parametrize("command", ["connector", "signer"])
async def test_ctrl_c_without_traceback(site: Site, command: str) -> None:
    # Whatever it does at that moment: it may be importing, or refuse to run as root.
    process = await start(command, "--config", str(site.settings))
    await asyncio.sleep(1.5)
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()

"""The demo, unattended: start, sign in, submit, run 6*7, stop, look for leftovers.

One line a step with its time; exit status 0 when all went well.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.web import Person, parse_forms

MARK = "LANDFALL_SMOKE"
GATEWAY = str(Path(sys.executable).with_name("gateway"))
BOUND = 120.0


@asynccontextmanager
async def step(name: str) -> AsyncIterator[None]:
    began = time.monotonic()
    async with asyncio.timeout(BOUND):
        yield
    print(f"ok    {name:<60} {time.monotonic() - began:6.1f} s", flush=True)


async def main() -> int:
    mark = secrets.token_hex(8)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    # Made by the demo itself: as root it becomes another user first.
    directory = f"/tmp/landfall-smoke-{mark}"
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            GATEWAY, "up", "--rehearsal", "--port", str(port), "--directory", directory,
            stdout=log, stderr=log, start_new_session=True, cwd="/", env=os.environ | {MARK: mark},
        )  # fmt: skip
        try:
            await visit(base, process, directory)
            async with step("everything stops on Ctrl-C"):
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 0
            async with step("no process is left"):
                assert not (left := leftovers(mark)), f"still running: {left}"
        except BaseException:
            log.seek(0)
            print("---- gateway up said:\n" + log.read().decode(errors="replace"), flush=True)
            raise
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            shutil.rmtree(directory, ignore_errors=True)
    print(f"smoke: 1 passed, 0 failed ({time.monotonic() - began:.1f} s)")
    return 0


async def visit(base: str, process: asyncio.subprocess.Process, directory: str) -> None:
    async with Person(base, "alice") as alice:
        async with step("start"):
            while not await healthy(alice):
                assert process.returncode is None, "gateway up has ended"
                await asyncio.sleep(0.2)
        async with step("sign in"):
            await alice.sign_in("rehearsal")
        async with step("submit the form"):
            status, page = await alice.get("/hub/spawn/alice")
            assert status == 200, page
            form = next(form for form in parse_forms(page) if "partition" in form.fields)
            status, page, url = await alice.submit("/hub/spawn/alice", form)
            assert status == 200, (url, page)
        async with step("follow the progress stream until the server is ready"):
            messages = await follow(alice)
            assert messages[-1].get("ready"), messages
        async with step("run 6*7 in a kernel over the websocket"):
            kernel = await alice.open_kernel()
            assert await kernel.run("6*7") == "42"
            await kernel.close()
        async with step("stop the server; its job has ended"):
            status, _ = await alice.api("DELETE", "/users/alice/server")
            assert status in (202, 204)
            while (launch := await newest_launch(directory))["state"] != "ended":
                await asyncio.sleep(0.2)
            assert launch["job_id"], launch
            assert launch["end"]["reason"] == "stopped", launch


async def healthy(person: Person) -> bool:
    try:
        return (await person.get("/hub/health"))[0] == 200
    except OSError:
        return False


async def follow(person: Person) -> list[dict[str, Any]]:
    """Messages of the hub's own progress stream."""
    status, text = await person.get(f"/hub/api/users/{person.name}/server/progress")
    assert status == 200, text
    return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]


async def newest_launch(directory: str) -> dict[str, Any]:
    """What ``gateway launches`` says of the newest launch."""
    process = await asyncio.create_subprocess_exec(
        GATEWAY, "launches", "list", "--all", "--json", "--config", f"{directory}/gateway.yml",
        stdout=asyncio.subprocess.PIPE, cwd="/",
    )  # fmt: skip
    printed, _ = await process.communicate()
    assert process.returncode == 0
    newest: dict[str, Any] = json.loads(printed.splitlines()[0])
    return newest


def leftovers(mark: str) -> list[str]:
    """Command lines of processes that inherited the mark."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and int(directory.name) != os.getpid():
            try:
                if f"{MARK}={mark}".encode() in (directory / "environ").read_bytes():
                    found.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

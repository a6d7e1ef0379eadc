"""The controller's door: a unix socket where the look-alike commands bring what they were asked."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Final

from gateway.rehearsal.hosts import Hosts
from gateway.rehearsal.job_runner import JobProcesses
from gateway.rehearsal.sbatch import run_sbatch
from gateway.rehearsal.slurm_commands import COMMANDS, controller_away
from gateway.rehearsal.slurm_state import SlurmState
from gateway.rehearsal.slurm_text import Answer, Request, UsageError

log = logging.getLogger(__name__)
_LIMIT: Final = 8 * 1024 * 1024
_READ_TIMEOUT: Final = 30.0


class Controller:
    """Answers commands over ``state``; ``walltime_step`` as in :func:`run_sbatch`."""

    def __init__(
        self, state: SlurmState, processes: JobProcesses, hosts: Hosts, walltime_step: int
    ) -> None:
        self._state = state
        self._processes = processes
        self._hosts = hosts
        self._walltime_step = walltime_step
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen on the controller's socket."""
        path = self._hosts.controller_socket
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_LIMIT)
        path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening and end commands under way; idempotent."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        self._hosts.controller_socket.unlink(missing_ok=True)

    def answer(self, request: Request) -> Answer:
        """Run one command."""
        command = request.argv[0]
        asks_version = {"--version", "-V"} & set(request.argv[1:2])
        if not self._state.answers and not asks_version:
            away = controller_away(command)
            if away is not None:
                return away
        try:
            if command == "sbatch":
                return run_sbatch(
                    self._state,
                    request,
                    base_environment=self._hosts.session_environment(request.user),
                    store_script=self._processes.store_script,
                    walltime_step=self._walltime_step,
                )
            return COMMANDS[command](self._state, request)
        except UsageError as problem:
            return Answer(stderr=f"{problem}\n", status=problem.status)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(_READ_TIMEOUT):
                header = json.loads(await reader.readline())
                script = await reader.readexactly(header.pop("script_bytes"))
                answer = self.answer(Request(script=script, **header))
                reply = {
                    "stdout": answer.stdout,
                    "stderr": answer.stderr,
                    "status": answer.status,
                }
                writer.write(json.dumps(reply).encode())
                await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as problem:
            log.info("a command was cut off: %r", problem)
        finally:
            writer.close()
